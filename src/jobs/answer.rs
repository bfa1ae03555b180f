//! Answers to questions about jobs, given on a thread of the store.

use std::sync::{Arc, Mutex, PoisonError};

/// Receives an answer, on a thread of the store.
pub(super) type Answer<T> = Box<dyn FnOnce(T) + Send>;

/// Two ways to give one answer: through the store, or directly if the store refuses the command. Only the first call has an
/// effect.
pub(super) fn shared_answer<T: Send + 'static>(answer: Answer<T>) -> (impl FnOnce(T) + Send, impl FnOnce(T)) {
    let slot = Arc::new(Mutex::new(Some(answer)));
    let give = |slot: Arc<Mutex<Option<Answer<T>>>>| {
        move |value: T| {
            let answer = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(answer) = answer {
                answer(value);
            }
        }
    };
    (give(Arc::clone(&slot)), give(slot))
}
