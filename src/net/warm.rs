//! Reads files into memory for shards, because a shard must not wait for a disk.
//!
//! A shard sends a part of a file only if the kernel has it in memory. A thread of this pool reads a part that is not there;
//! then the shard resumes that connection.

use super::conn_id::ConnId;
use super::file::ColdRange;
use super::waker::Waker;
use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::queue::SegQueue;
use std::sync::{Arc, OnceLock};

/// Threads that read. A disk serves several requests at once; further threads would only wait in its queue.
const READERS: usize = 4;
/// Limit on the parts waiting to be read. Beyond this limit a shard sends unread parts, and may block.
const WAITING_MAX: usize = 1024;
/// Bytes of one read.
const READ_BYTES: usize = 128 * 1024;

struct Order {
    conn: ConnId,
    range: ColdRange,
    back: Arc<Back>,
}

/// Returns results to one shard.
#[derive(Debug)]
struct Back {
    done: SegQueue<(ConnId, u64)>,
    waker: Arc<Waker>,
}

/// The shard's interface to the pool.
#[derive(Debug)]
pub(super) struct Warmer {
    back: Arc<Back>,
}

impl Warmer {
    pub(super) fn new(waker: &Arc<Waker>) -> Self {
        Self { back: Arc::new(Back { done: SegQueue::new(), waker: Arc::clone(waker) }) }
    }

    /// Orders `range` to be read for `conn`. Returns false if too many parts wait already, or no thread could be started.
    pub(super) fn order(&self, conn: ConnId, range: ColdRange) -> bool {
        let order = Order { conn, range, back: Arc::clone(&self.back) };
        pool().is_some_and(|orders| orders.try_send(order).is_ok())
    }

    /// The next connection whose part has been read, and the offset in its file up to which bytes were read.
    pub(super) fn next(&self) -> Option<(ConnId, u64)> {
        self.back.done.pop()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.back.done.is_empty()
    }
}

/// The queue to the threads; they are started when the first part must be read.
fn pool() -> Option<&'static Sender<Order>> {
    static POOL: OnceLock<Option<Sender<Order>>> = OnceLock::new();
    let start = || {
        let (sender, receiver) = bounded::<Order>(WAITING_MAX);
        let started = (0..READERS).filter(|number| {
            let orders = receiver.clone();
            let thread = std::thread::Builder::new().name(format!("file-reader-{number}"));
            thread.spawn(move || read_all(&orders)).is_ok()
        });
        (started.count() > 0).then_some(sender)
    };
    POOL.get_or_init(start).as_ref()
}

fn read_all(orders: &Receiver<Order>) {
    let mut buffer = vec![0; READ_BYTES];
    for Order { conn, range, back } in orders {
        range.read(&mut buffer);
        back.done.push((conn, range.end()));
        back.waker.wake();
    }
}
