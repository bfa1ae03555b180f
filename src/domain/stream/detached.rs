//! Answers that outlive their handlers: the detached streams of this process, by number.
//!
//! Module code knows a stream by this number; a shard knows it by its [`StreamAddress`].

use super::down::Down;
use super::running::Reason;
use super::{StreamAddress, Uplink};
use crate::abi::stream::{self, Event, Streams};
use crate::threads::module_thread;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

/// One detached stream.
pub(super) struct Detached {
    down: Arc<Mutex<Down>>,
    uplink: Arc<dyn Uplink>,
    place: Option<StreamAddress>,
    /// The name of the module that gives the answer.
    module: Option<Arc<str>>,
    gone: AtomicBool,
    /// The last write had no room.
    blocked: AtomicBool,
}

impl Detached {
    pub(super) fn new(down: Arc<Mutex<Down>>, uplink: Arc<dyn Uplink>, module: &str) -> Self {
        let slot = unpoisoned(&down).slot;
        // No notices come for a stream that uses its call's own slot: the writer finds the pipe closed.
        let place = slot.map(|slot| uplink.place(slot));
        let module = unpoisoned(&LOADED)
            .as_ref()
            .and_then(|loaded| loaded.get_key_value(module).map(|(name, _)| Arc::clone(name)));
        Self { down, uplink, place, module, gone: AtomicBool::new(false), blocked: AtomicBool::new(false) }
    }
}

#[derive(Default)]
struct Registry {
    streams: HashMap<u64, Arc<Detached>>,
    places: HashMap<StreamAddress, u64>,
}

static REGISTRY: RwLock<Option<Registry>> = RwLock::new(None);
static NEXT: AtomicU64 = AtomicU64::new(1);

/// The number of versions of each module that this process has loaded.
static LOADED: Mutex<Option<HashMap<Arc<str>, usize>>> = Mutex::new(None);

/// Counts a loaded version of a module until it is dropped. Dropping the last one ends the module's detached answers.
#[derive(Debug)]
pub(in crate::domain) struct Loaded(Arc<str>);

impl Loaded {
    pub(in crate::domain) fn new(module: &str) -> Self {
        let mut loaded = unpoisoned(&LOADED);
        let loaded = loaded.get_or_insert_default();
        let name = loaded.get_key_value(module).map_or_else(|| Arc::from(module), |(name, _)| Arc::clone(name));
        *loaded.entry(Arc::clone(&name)).or_default() += 1;
        Self(name)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        {
            let mut loaded = unpoisoned(&LOADED);
            let Some(count) = loaded.as_mut().and_then(|loaded| loaded.get_mut(&self.0)) else { return };
            *count -= 1;
            if *count > 0 {
                return;
            }
            loaded.as_mut().map(|loaded| loaded.remove(&self.0));
        }
        break_off(&self.0);
    }
}

/// Ends the detached answers of a removed module, so that their clients can tell that they are incomplete.
fn break_off(module: &str) {
    let is_its = |stream: &Detached| stream.module.as_deref() == Some(module);
    let ended: Vec<(u64, Arc<Detached>)> = change(|registry| {
        let ended: Vec<_> = registry.streams.extract_if(|_, stream| is_its(stream)).collect();
        for (number, place) in ended.iter().filter_map(|(number, stream)| Some((number, stream.place?))) {
            if registry.places.get(&place) == Some(number) {
                registry.places.remove(&place);
            }
        }
        ended
    });
    for (number, stream) in ended {
        stream::forget(number);
        unpoisoned(&stream.down).fail(libc::ECANCELED, &*stream.uplink);
    }
}

/// After this time without writes, a stream's memory is returned to the kernel.
const REST_AFTER: Duration = Duration::from_secs(2);

/// Whether the thread for idle streams is running.
static LOOKED_AFTER: AtomicBool = AtomicBool::new(false);

fn is_empty() -> bool {
    let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    registry.as_ref().is_none_or(|registry| registry.streams.is_empty())
}

/// Starts the thread that releases the memory of idle streams, unless it is running. The thread ends with the last stream.
fn look_after() {
    if LOOKED_AFTER.swap(true, Ordering::SeqCst) {
        return;
    }
    let body = || {
        loop {
            std::thread::sleep(REST_AFTER);
            let streams: Vec<Arc<Detached>> = {
                let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
                registry.as_ref().map(|registry| registry.streams.values().cloned().collect()).unwrap_or_default()
            };
            if streams.is_empty() {
                LOOKED_AFTER.store(false, Ordering::SeqCst);
                // A stream that was added just before this point did not start another thread.
                if is_empty() || LOOKED_AFTER.swap(true, Ordering::SeqCst) {
                    return;
                }
            }
            streams.iter().for_each(|stream| unpoisoned(&stream.down).writer.rest());
        }
    };
    if let Err(error) = module_thread("stream-rest").spawn(body) {
        tracing::warn!("the memory of idle streams is not released, because no thread can be started: {error}");
        LOOKED_AFTER.store(false, Ordering::Release);
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn change<T>(what: impl FnOnce(&mut Registry) -> T) -> T {
    what(REGISTRY.write().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

fn find(stream: u64) -> Result<Arc<Detached>, i32> {
    let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    registry.as_ref().and_then(|registry| registry.streams.get(&stream).cloned()).ok_or(libc::EBADF)
}

/// Registers a stream and returns its number.
pub(super) fn add(stream: Detached) -> u64 {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    change(|registry| {
        if let Some(place) = stream.place {
            registry.places.insert(place, number);
        }
        registry.streams.insert(number, Arc::new(stream));
    });
    look_after();
    number
}

fn at(place: StreamAddress) -> Option<u64> {
    REGISTRY.read().unwrap_or_else(PoisonError::into_inner).as_ref()?.places.get(&place).copied()
}

/// Handles the end of the answer at `place`: the whole answer is sent, or its client has gone.
pub(in crate::domain) fn over(place: StreamAddress) {
    let Some(number) = at(place) else { return };
    change(|registry| registry.places.remove(&place));
    if let Ok(stream) = find(number) {
        stream.gone.store(true, Ordering::Release);
        stream::notify(number, Event::Gone);
    }
}

/// Handles new room for the answer at `place`.
pub(in crate::domain) fn room(place: StreamAddress) {
    if let Some(number) = at(place) {
        stream::notify(number, Event::Room);
    }
}

/// The functions of modules for detached streams.
pub(in crate::domain) struct All;

impl Streams for All {
    fn write(&self, number: u64, bytes: &[u8]) -> Result<bool, i32> {
        let stream = find(number)?;
        if stream.gone.load(Ordering::Acquire) {
            return Err(libc::ECONNRESET);
        }
        let mut down = unpoisoned(&stream.down);
        let taken = down.write_all(bytes, &*stream.uplink)?;
        stream.blocked.store(!taken, Ordering::Relaxed);
        Ok(taken)
    }

    fn close(&self, number: u64) -> Result<(), i32> {
        let stream = change(|registry| registry.streams.remove(&number)).ok_or(libc::EBADF)?;
        stream::forget(number);
        if let Some(place) = stream.place {
            change(|registry| {
                if registry.places.get(&place) == Some(&number) {
                    registry.places.remove(&place);
                }
            });
        }
        unpoisoned(&stream.down).end(&*stream.uplink);
        Ok(())
    }

    fn canceled(&self, number: u64) -> Result<i32, i32> {
        let stream = find(number)?;
        let gone = stream.gone.load(Ordering::Acquire) || unpoisoned(&stream.down).writer.room().is_err();
        Ok(if gone { Reason::ClientGone as i32 } else { 0 })
    }

    fn is_blocked(&self, number: u64) -> bool {
        find(number).is_ok_and(|stream| stream.blocked.load(Ordering::Relaxed))
    }
}
