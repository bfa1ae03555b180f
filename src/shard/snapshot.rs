//! A shard's own snapshot of the module table.
//!
//! Calls hold a [`ShardGen`], which belongs to this shard alone, so taking and dropping a reference writes no memory that
//! another shard writes. When a swap replaces a generation, the shard drops its `ShardGen`; the end of the last call in
//! flight on it releases the generation.

use crate::abi::manifest::{RouteDecl, WebSocketDecl};
use crate::domain::Instance;
use crate::domain::call::GenerationRef;
use crate::module::generation::Serving;
use crate::module::table::{Published, Table};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

/// The unit has not been timed yet.
const UNKNOWN: u32 = u32::MAX;

/// A handler with at most this running average, in µs, runs on the shard's companion.
const SHORT_US_MAX: u32 = 200;

/// The expected size of a route's first answer, in bytes: four such answers fit into the limit of a connection.
pub(super) const ANSWER_BYTES_UNKNOWN: usize = 256 * 1024;

/// One generation as this shard uses it.
pub(super) struct ShardGen {
    serving: Arc<Serving>,
    /// The running average of each unit's duration, in µs: routes first, then WebSockets.
    average_us: Box<[AtomicU32]>,
    /// The largest recent answer of each route, in bytes; 0: there was none.
    answer_bytes: Box<[AtomicUsize]>,
}

impl ShardGen {
    fn new(serving: Arc<Serving>) -> Arc<Self> {
        let manifest = serving.generation().manifest();
        let units = manifest.routes.len() + manifest.websockets.len();
        let average_us = (0..units).map(|_| AtomicU32::new(UNKNOWN)).collect();
        let answer_bytes = manifest.routes.iter().map(|_| AtomicUsize::new(0)).collect();
        Arc::new(Self { serving, average_us, answer_bytes })
    }

    /// Whether unit number `unit` is known to be short.
    pub(super) fn is_short(&self, unit: usize) -> bool {
        self.average_us.get(unit).is_some_and(|average| average.load(Ordering::Relaxed) <= SHORT_US_MAX)
    }

    /// The unit number of WebSocket number `index`.
    pub(super) fn websocket_unit(&self, index: usize) -> usize {
        self.serving.generation().manifest().routes.len() + index
    }

    /// Whether the callbacks of WebSocket number `index` may run on the shard's thread.
    pub(super) fn is_inline_socket(&self, index: usize) -> bool {
        self.serving.generation().manifest().websockets.get(index).is_some_and(WebSocketDecl::is_inline)
    }

    /// Route number `route` as its module declares it.
    pub(super) fn route(&self, route: usize) -> Option<&RouteDecl> {
        self.serving.generation().manifest().routes.get(route)
    }

    /// The expected size of the next answer of route number `route`, in bytes: its largest recent one.
    pub(super) fn expected_bytes(&self, route: usize) -> usize {
        match self.answer_bytes.get(route).map(|bytes| bytes.load(Ordering::Relaxed)) {
            None | Some(0) => ANSWER_BYTES_UNKNOWN,
            Some(bytes) => bytes,
        }
    }
}

impl ShardGen {
    /// Lowers the expected size of the answers of route number `route`, after an answer was refused for its expected size.
    /// Otherwise one large answer could block the route for good.
    pub(super) fn doubt(&self, route: usize) {
        if let Some(bytes) = self.answer_bytes.get(route) {
            let known = bytes.load(Ordering::Relaxed);
            bytes.store(known - known / 8, Ordering::Relaxed);
        }
    }
}

impl GenerationRef for ShardGen {
    fn instance(&self) -> &dyn Instance {
        &**self.serving.generation().instance()
    }

    /// Adds a sample. A single call above a millisecond makes its handler a long one; several short calls make it a short
    /// one again. Two executors may lose each other's sample, since this is an estimate.
    fn ran(&self, unit: usize, elapsed: Duration, answer_bytes: usize) {
        if let Some(largest) = self.answer_bytes.get(unit) {
            let known = largest.load(Ordering::Relaxed);
            // The estimate decays, so that one large answer does not block smaller ones for good.
            let expected = answer_bytes.max(known - known / 8);
            if expected != known {
                largest.store(expected, Ordering::Relaxed);
            }
        }
        let Some(average) = self.average_us.get(unit) else { return };
        let sample = u32::try_from(elapsed.as_micros()).unwrap_or(UNKNOWN - 1).min(UNKNOWN - 1);
        let old = average.load(Ordering::Relaxed);
        let new = if old == UNKNOWN || sample > 1_000 && sample > old { sample } else { old - old / 8 + sample / 8 };
        if new != old {
            average.store(new, Ordering::Relaxed);
        }
    }
}

/// The table, with this shard's `ShardGen` of each module in the table's order.
pub struct Snapshot {
    table: Arc<Table>,
    /// `None` for a module during its swap.
    gens: Vec<Option<Arc<ShardGen>>>,
}

impl Snapshot {
    /// The first snapshot of a shard.
    #[must_use]
    pub fn first(table: Arc<Table>) -> Self {
        let fresh = |module: &Published| module.serving().map(|serving| ShardGen::new(Arc::clone(serving)));
        let gens = table.modules().iter().map(fresh).collect();
        Self { table, gens }
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The generation of module number `module`.
    pub(super) fn gen_of(&self, module: usize) -> Option<&Arc<ShardGen>> {
        self.gens.get(module)?.as_ref()
    }

    /// Takes `table` and keeps the samples of generations that stay. Returns the previous snapshot.
    pub(super) fn replace(&mut self, table: Arc<Table>) -> Snapshot {
        let gens = table
            .modules()
            .iter()
            .map(|module| {
                let serving = module.serving()?;
                let same = self.gens.iter().flatten().find(|known| Arc::ptr_eq(&known.serving, serving));
                Some(same.map_or_else(|| ShardGen::new(Arc::clone(serving)), Arc::clone))
            })
            .collect();
        std::mem::replace(self, Snapshot { table, gens })
    }
}
