//! The events of many jobs, in the order of the commits.
//!
//! A reader names its position by a cursor, an opaque text. The hub notifies readers of new events, and a reader reads them
//! from the store: stored and new events take the same path.

use super::answer::Answer;
use super::frame::JobFrame;
use super::service::{Jobs, LIST_BYTES_MAX, REPLAY_BYTES_MAX, REPLAY_EVENTS_MAX, Replay};
use super::store::{FeedFilter, FeedPage, JobEvent, JobState, Read, StoreError};
use std::sync::Arc;

/// Events of many jobs, and the cursor for the next request.
pub type FeedSlice = (Vec<Arc<JobFrame>>, String);

/// A position among the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// Before the first stored event.
    Start,
    /// After the last event at the time of the read.
    Now,
    /// After the event with this number.
    After(i64),
}

impl Cursor {
    /// Parses `start`, `now`, or a text of [`Cursor::text`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "start" => Some(Self::Start),
            "now" => Some(Self::Now),
            _ => {
                let hex = text.strip_prefix("c1-")?;
                let id = i64::from_str_radix(hex, 16).ok().filter(|id| *id >= 0 && !hex.starts_with('+'))?;
                Some(Self::After(id))
            }
        }
    }

    /// The position after event number `id`.
    #[must_use]
    pub fn text(id: i64) -> String {
        format!("c1-{id:x}")
    }

    /// The number after which to read; a negative number means the last event.
    #[must_use]
    pub fn after(self) -> i64 {
        match self {
            Self::Start => 0,
            Self::Now => -1,
            Self::After(id) => id,
        }
    }
}

/// Parses a filter; an empty text counts as missing.
///
/// # Errors
/// A sentence for users: which parameter is wrong.
pub fn feed_filter(module: Option<String>, state: Option<&str>) -> Result<FeedFilter, String> {
    let state = match state.filter(|state| !state.is_empty()) {
        None => None,
        Some(text) => Some(JobState::parse(text).filter(|state| state.is_final()).ok_or_else(|| {
            format!("state must be done, failed or canceled, which are the ends of jobs, not \"{text}\"")
        })?),
    };
    Ok(FeedFilter { module: module.filter(|module| !module.is_empty()), state })
}

fn frames(page: &FeedPage) -> Vec<Arc<JobFrame>> {
    let frame = |(event, module, job): &(JobEvent, String, String)| {
        Arc::new(JobFrame::of_job(event, module, job, &Cursor::text(event.id)))
    };
    page.events.iter().map(frame).collect()
}

impl Jobs {
    /// One step of the events of many jobs, after number `after` ([`Cursor::after`]).
    pub fn feed(&self, filter: Arc<FeedFilter>, after: i64, answer: Answer<Result<Replay, StoreError>>) {
        self.read(move |reader| {
            let page = reader.feed(&filter, after, REPLAY_EVENTS_MAX, REPLAY_BYTES_MAX);
            answer(page.map(|page| Replay {
                frames: frames(&page),
                at_end: page.at_end,
                finished: false,
                read_to: page.read_to,
            }));
        });
    }

    /// A page of at most `limit` events of many jobs, and the cursor for the next page.
    pub fn feed_page(
        &self,
        filter: FeedFilter,
        cursor: Cursor,
        limit: u32,
        answer: Answer<Result<FeedSlice, StoreError>>,
    ) {
        self.read(move |reader| {
            let page = reader.feed(&filter, cursor.after(), limit, LIST_BYTES_MAX);
            answer(page.map(|page| (frames(&page), Cursor::text(page.read_to))));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_they_were_written() {
        for id in [0, 1, 255, i64::MAX] {
            assert_eq!(Cursor::parse(&Cursor::text(id)), Some(Cursor::After(id)));
        }
        assert_eq!((Cursor::parse("start"), Cursor::parse("now")), (Some(Cursor::Start), Some(Cursor::Now)));
        for text in ["", "7", "c1-", "c1--1", "c1-+1", "c1-g", "c2-1", "c1-8000000000000000", "C1-1"] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}
