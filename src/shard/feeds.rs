//! Parses requests for streams of job events, and begins the streams of many jobs (`/jobs/events`) and those over
//! WebSockets. `streams` has the rest.

use super::Shard;
use super::conn::Upgrade;
use super::requests::{Begun, Origin};
use super::sockets::refused_handshake;
use super::streams::Channel;
use crate::admin::{OF_FEED, check_parameters};
use crate::domain::inbox::Message;
use crate::jobs::store::FeedFilter;
use crate::jobs::{ALL_JOBS, Cursor, feed_filter};
use crate::module::reach::Reach;
use crate::net::ConnId;
use crate::proto::form;
use crate::proto::http1::RequestView;
use crate::proto::ws::{self, Session, WsLimits};
use crate::server_response::{Meta, shutting_down};
use std::sync::Arc;

/// The path of the stream of many jobs.
pub(super) const FEED: &[u8] = b"/jobs/events";
/// Limit, in bytes, on a watcher's message; none is expected.
const WATCHER_MESSAGE_BYTES_MAX: usize = 4 * 1024;

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
fn asked_feed(view: &RequestView<'_>) -> Result<(FeedFilter, Cursor), String> {
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

impl Shard {
    /// Begins a stream of server-sent events about many jobs.
    pub(super) fn begin_feed(&mut self, origin: &Origin, view: &RequestView<'_>, meta: Meta) {
        let channel = Channel::ServerSent { seq: origin.seq, meta, begun: false };
        self.open_feed(origin.id, channel, view);
    }

    /// Answers the handshake of a WebSocket for events. On success the stream exists.
    pub(super) fn begin_jobs_socket(
        &mut self,
        origin: &Origin,
        view: &RequestView<'_>,
        reach: Reach,
        out: &mut Vec<u8>,
    ) -> Begun {
        let meta = self.meta(origin, view);
        let accept = match ws::check(view) {
            Ok(accept) if !self.draining => accept,
            Ok(_) => {
                shutting_down().encode(&meta, out);
                return Begun::Answered;
            }
            Err(error) => {
                refused_handshake(&error).encode(&meta, out);
                return Begun::Answered;
            }
        };
        ws::encode_accept(out, &accept, None, &self.date);
        let limits = WsLimits { message_bytes_max: WATCHER_MESSAGE_BYTES_MAX, deflates: false };
        let channel = Channel::WebSocket(Box::new(Session::new(limits)));
        if view.path() == FEED {
            return Begun::Taken(Upgrade::Stream(self.open_feed(origin.id, channel, view)));
        }
        let (id, after) = asked(view);
        let key = match after {
            Ok(after) => {
                let uuid = job_in(view.path()).or(id).unwrap_or_default();
                self.open_stream(origin.id, channel, after, uuid, reach)
            }
            Err(text) => self.refuse_stream(origin.id, channel, text),
        };
        Begun::Taken(Upgrade::Stream(key))
    }

    /// Makes a stream of the events of many jobs.
    fn open_feed(&mut self, conn: ConnId, channel: Channel, view: &RequestView<'_>) -> u64 {
        let (filter, cursor) = match asked_feed(view) {
            Ok(asked) => asked,
            Err(text) => return self.refuse_stream(conn, channel, text),
        };
        let key = self.new_stream(conn, channel, cursor.after());
        self.streams.set_feed(key, Arc::new(filter));
        self.inbox.push(Message::StreamFound { stream: key, job: Ok(ALL_JOBS) });
        key
    }

    /// Makes a stream that reports an error and ends.
    fn refuse_stream(&mut self, conn: ConnId, channel: Channel, text: String) -> u64 {
        let key = self.new_stream(conn, channel, 0);
        self.inbox.push(Message::StreamFound { stream: key, job: Err((400, text)) });
        key
    }
}
