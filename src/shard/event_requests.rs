//! Parses requests for streams of job events.

use crate::admin::{OF_FEED, check_parameters};
use crate::jobs::store::FeedFilter;
use crate::jobs::{Cursor, feed_filter};
use crate::proto::form;
use crate::proto::http1::RequestView;

/// The path of the stream of many jobs.
pub(super) const FEED: &[u8] = b"/jobs/events";
/// Whether this is the handshake of a WebSocket for events: of one job (`/jobs/ws?id=UUID` and `/jobs/UUID/events`) or of
/// many.
pub(super) fn is_events_socket(view: &RequestView<'_>) -> bool {
    let path = view.path();
    (path == b"/jobs/ws" || path.starts_with(b"/jobs/") && path.ends_with(b"/events")) && view.is_websocket_upgrade()
}

/// The job in the path `/jobs/UUID/events`.
pub(super) fn job_in(path: &[u8]) -> Option<String> {
    let uuid = path.strip_prefix(b"/jobs/")?.strip_suffix(b"/events")?;
    Some(String::from_utf8_lossy(uuid).into_owned())
}

/// Parses a client's request: the job, and the last event that the client has seen.
pub(super) fn asked(view: &RequestView<'_>) -> (Option<String>, Result<i64, String>) {
    let (mut id, mut since) = (None, None);
    form::urlencoded(view.query().unwrap_or_default(), |name, value| match name {
        b"id" if id.is_none() => id = Some(String::from_utf8_lossy(value).into_owned()),
        b"since_event_id" if since.is_none() => since = Some(String::from_utf8_lossy(value).into_owned()),
        _ => {}
    });
    // A browser that reconnects sends the last id that it saw, but still uses the first URL.
    let resumed = view.header("last-event-id").map(|text| String::from_utf8_lossy(text).into_owned());
    let since = resumed.or(since);
    let after = since.as_deref().unwrap_or("0").trim();
    let after = after.parse::<i64>().ok().filter(|after| *after >= 0);
    (id, after.ok_or_else(|| "since_event_id must be a whole number, 0 or more".to_owned()))
}

/// Parses a client's request: the filter of events, and the first event.
pub(super) fn asked_feed(view: &RequestView<'_>) -> Result<(FeedFilter, Cursor), String> {
    check_parameters(view, &OF_FEED)?;
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
