//! The threads that read from the store, because shards never access SQLite.

use super::code::ResolveError;
use super::store::Reader;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How often a submission to a module that is being swapped is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(5);

/// See [`Query::Attempt`].
type Attempt = Box<dyn FnMut(&mut Reader) -> Result<(), ResolveError> + Send>;

/// Work for a reading thread.
pub(super) enum Query {
    /// Reads from the store.
    Read(Box<dyn FnOnce(&mut Reader) + Send>),
    /// Work that may have to wait for a swap: called again until it reports that it is done.
    Attempt(Attempt),
    /// Ends the thread.
    Stop,
}

/// Serves queries until [`Query::Stop`].
pub(super) fn serve(mut reader: Reader, queries: &Receiver<Query>) {
    let mut waiting: Vec<Attempt> = Vec::new();
    loop {
        let next = if waiting.is_empty() {
            queries.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queries.recv_timeout(RETRY_EVERY)
        };
        match next {
            Ok(Query::Read(read)) => read(&mut reader),
            Ok(Query::Attempt(mut attempt)) => {
                if attempt(&mut reader).is_err() {
                    waiting.push(attempt);
                }
            }
            Ok(Query::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => waiting.retain_mut(|attempt| attempt(&mut reader).is_err()),
        }
    }
}
