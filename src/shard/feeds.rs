//! Parses requests for streams of job events, and begins streams of the events of many jobs (`/jobs/events`). The rest
//! is in `streams`.

use super::Shard;
use super::requests::{Begun, Origin};
use super::streams::{Channel, error_json};
use crate::domain::inbox::Message;
use crate::jobs::store::FeedFilter;
use crate::jobs::{ALL_JOBS, Cursor, feed_filter};
use crate::proto::form;
use crate::proto::http1::RequestView;
use crate::server_response::{Meta, ServerAnswer};
use std::sync::Arc;

/// Parses a client's request: the job, and the event that the client has seen last.
pub(super) fn asked(view: &RequestView<'_>) -> (Option<String>, Result<i64, String>) {
    let (mut id, mut since) = (None, None);
    form::urlencoded(view.query().unwrap_or_default(), |name, value| match name {
        b"id" if id.is_none() => id = Some(String::from_utf8_lossy(value).into_owned()),
        b"since_event_id" if since.is_none() => since = Some(String::from_utf8_lossy(value).into_owned()),
        _ => {}
    });
    // A browser that reconnects sends the last id it saw; the address it uses is still the first one.
    let resumed = view.header("last-event-id").map(|text| String::from_utf8_lossy(text).into_owned());
    let since = resumed.or(since);
    let after = since.as_deref().unwrap_or("0").trim();
    let after = after.parse::<i64>().ok().filter(|after| *after >= 0);
    (id, after.ok_or_else(|| "since_event_id must be a whole number, 0 or more".to_owned()))
}

/// Parses a client's request: the filter of events, and the place to begin.
fn asked_feed(view: &RequestView<'_>) -> Result<(FeedFilter, Cursor), String> {
    let [mut module, mut state, mut cursor] = [None, None, None];
    form::urlencoded(view.query().unwrap_or_default(), |name, value| {
        let place = match name {
            b"module" => &mut module,
            b"state" => &mut state,
            b"cursor" => &mut cursor,
            _ => return,
        };
        place.get_or_insert_with(|| String::from_utf8_lossy(value).into_owned());
    });
    let resumed = view.header("last-event-id").map(|text| String::from_utf8_lossy(text).into_owned());
    let filter = feed_filter(module, state.as_deref())?;
    let cursor = resumed.filter(|text| !text.is_empty()).or(cursor).unwrap_or_else(|| "now".to_owned());
    let found = Cursor::parse(cursor.trim());
    let found = found.ok_or_else(|| {
        format!("cursor must be \"start\", \"now\" or the id of an event of such a stream, not {cursor:?}")
    });
    Ok((filter, found?))
}

impl Shard {
    /// Begins a stream of the events of many jobs.
    pub(super) fn begin_feed(
        &mut self,
        origin: &Origin,
        view: &RequestView<'_>,
        meta: Meta,
        out: &mut Vec<u8>,
    ) -> Begun {
        match asked_feed(view) {
            Ok((filter, cursor)) => {
                let channel = Channel::ServerSent { seq: origin.seq, meta, begun: false };
                let key = self.new_stream(origin.id, channel, cursor.after());
                self.streams.set_feed(key, Arc::new(filter));
                self.inbox.push(Message::StreamFound { stream: key, job: Ok(ALL_JOBS) });
                Begun::Running { expected: 0 }
            }
            Err(text) => {
                ServerAnswer::json(400, error_json(&text)).encode(&meta, out);
                Begun::Answered
            }
        }
    }
}
