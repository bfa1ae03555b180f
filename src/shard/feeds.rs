//! Begins streams of job events: streams of many jobs (`/jobs/events`), and streams by WebSocket. The rest is in `streams`.

use super::Shard;
use super::begun::Begun;
use super::conn::Upgrade;
use super::event_requests::{FEED, asked, asked_feed, job_in};
use super::origin::Origin;
use super::refused::refused_handshake;
use super::streams::Channel;
use crate::domain::inbox::Message;
use crate::jobs::ALL_JOBS;
use crate::module::reach::Reach;
use crate::net::ConnId;
use crate::proto::http1::RequestView;
use crate::proto::ws::{self, Session, WsLimits};
use crate::server_response::{Meta, shutting_down};
use std::sync::Arc;

/// Limit, in bytes, on a watcher's message; none is expected.
const WATCHER_MESSAGE_BYTES_MAX: usize = 4 * 1024;

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
        let limits =
            WsLimits { message_bytes_max: WATCHER_MESSAGE_BYTES_MAX, large_bytes_min: usize::MAX, deflates: false };
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
