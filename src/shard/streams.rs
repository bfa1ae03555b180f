//! Streams of job events, as WebSockets or server-sent events.
//!
//! Each stream is first replayed from disk and then live. The shard registers with the hub before the first read, and
//! remembers the highest live event that came during a replay; if the replay ends below that event, it continues. Therefore
//! no event is missed, and since only events after the last one sent are sent, none is repeated. A stream whose reader is
//! too slow goes back to replay, which waits for the reader.

use super::Shard;
use super::begun::Begun;
use super::conn::{Slot, Upgrade};
use super::event_requests::{FEED, asked, job_in};
use super::origin::Origin;
use super::pongs::Pongs;
use crate::domain::inbox::{Inbox, Message};
use crate::jobs::store::FeedFilter;
use crate::jobs::store::StoreError;
use crate::jobs::{Cursor, JobFrame, Replay};
use crate::module::reach::Reach;
use crate::net::{ConnId, Connections};
use crate::proto::http1::{Method, RequestView, accepts, encode_stream_head};
use crate::proto::ws::{self, Event, Kind, Session};
use crate::server_response::{Meta, ServerAnswer};
use std::collections::HashMap;
use std::sync::Arc;

/// Unsent bytes above which a stream's reader is too slow for live events.
const LIVE_UNSENT_BYTES_MAX: usize = 1024 * 1024;
/// Unsent bytes above which a replay waits.
const REPLAY_UNSENT_BYTES_MAX: usize = 64 * 1024;
/// The interval between heartbeats.
const HEARTBEAT_MS: u64 = 15_000;
/// Limit on the wait for a peer's close frame after the kernel has ours; the peer may still have to read megabytes before
/// it. The second limit applies while the server stops.
const CLOSE_WAIT_MS: u64 = 30_000;
const CLOSE_WAIT_DRAINING_MS: u64 = 2_000;
/// How long a browser waits before it reopens a broken stream: replacing a server takes less time.
const RETRY: &[u8] = b"retry: 2000\n\n";
/// RFC 6455 §7.4.1
const NORMAL: u16 = 1000;
/// RFC 6455 §7.4.1: the endpoint is going away.
const GOING_AWAY: u16 = 1001;
/// RFC 6455 §7.4.1: an unexpected condition.
const INTERNAL_ERROR: u16 = 1011;

/// The transport of events to the client.
pub(super) enum Channel {
    WebSocket(Box<Session>),
    /// The number of the request, and the framing of its answer.
    ServerSent {
        seq: u64,
        meta: Meta,
        /// Whether the head of the answer has been sent.
        begun: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The job is being looked up.
    Opening,
    /// A replay is running.
    Replaying,
    /// Events are sent as they come.
    Live,
    /// A replay continues once the reader has taken the unsent bytes.
    Behind,
    /// The last event or a close frame has been sent.
    Ending,
}

/// One stream.
struct Stream {
    conn: ConnId,
    channel: Channel,
    pongs: Pongs,
    mode: Mode,
    /// The watched job, registered with the hub; or [`ALL_JOBS`].
    job: Option<i64>,
    /// The filter of events, if the stream follows all jobs.
    feed: Option<Arc<FeedFilter>>,
    /// The number of the last event sent, or the client's start position.
    last: i64,
    /// The highest event that came while the stream was not live.
    missed: i64,
    /// Whether all events of the job have come, live or not.
    over: bool,
    /// Whether the client knows a cursor to resume from, if the stream follows all jobs.
    has_place: bool,
    beat_ms: u64,
    ending_since_ms: u64,
}

/// The shard's streams, by key.
#[derive(Default)]
pub(super) struct Streams {
    states: HashMap<u64, Box<Stream>>,
    by_job: HashMap<i64, Vec<u64>>,
    next_key: u64,
}

impl Streams {
    /// Makes a new stream follow many jobs.
    pub(super) fn set_feed(&mut self, key: u64, feed: Arc<FeedFilter>) {
        if let Some(stream) = self.states.get_mut(&key) {
            stream.feed = Some(feed);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether a stream continues after its client has closed its side: a server-sent stream does.
    pub(super) fn outlive_eof(&self, key: u64) -> bool {
        self.states.get(&key).is_some_and(|stream| matches!(stream.channel, Channel::ServerSent { .. }))
    }
}

/// Whether this is a GET of a path from `begin` to `end` by a client that accepts server-sent events.
pub(super) fn is_event_stream_of(view: &RequestView<'_>, begin: &[u8], end: &[u8]) -> bool {
    let path = view.path();
    path.starts_with(begin)
        && path.ends_with(end)
        && view.method() == Method::Get
        && view.header("accept").is_some_and(|accept| accepts(accept, "text/event-stream"))
}

pub(super) fn error_json(text: &str) -> String {
    serde_json::json!({ "error": text }).to_string()
}

impl Shard {
    /// Whether this request opens a stream of server-sent events: `GET /jobs/UUID/events` from a client that accepts them.
    pub(super) fn asks_for_events(view: &RequestView<'_>) -> bool {
        is_event_stream_of(view, b"/jobs/", b"/events")
    }

    /// Begins a stream of server-sent events; the answer is sent after the job is found.
    pub(super) fn begin_events(
        &mut self,
        origin: &Origin,
        view: &RequestView<'_>,
        meta: Meta,
        reach: Reach,
        out: &mut Vec<u8>,
    ) -> Begun {
        let (conn, seq) = (origin.id, origin.seq);
        let meta = Meta { keep_alive: false, ..meta };
        let path = view.path();
        if path == FEED {
            self.begin_feed(origin, view, meta);
            return Begun::Running { expected: 0 };
        }
        let uuid = job_in(path).unwrap_or_default();
        match asked(view).1 {
            Ok(after) => {
                let channel = Channel::ServerSent { seq, meta, begun: false };
                self.open_stream(conn, channel, after, uuid, reach);
                Begun::Running { expected: 0 }
            }
            Err(text) => {
                ServerAnswer::json(400, error_json(&text)).encode(&meta, out);
                Begun::Answered
            }
        }
    }

    /// Makes the stream and orders the look-up of its job.
    pub(super) fn open_stream(
        &mut self,
        conn: ConnId,
        channel: Channel,
        after: i64,
        uuid: String,
        reach: Reach,
    ) -> u64 {
        let key = self.new_stream(conn, channel, after);
        let inbox = Arc::clone(&self.inbox);
        let answer = move |found: Result<Option<_>, StoreError>| {
            let job = match found {
                Ok(Some(id)) => Ok(id),
                Ok(None) => Err((404, "there is no such job".to_owned())),
                Err(error) => Err((503, error.to_string())),
            };
            inbox.push(Message::StreamFound { stream: key, job });
        };
        self.admin.find_job(uuid, reach, Box::new(answer));
        key
    }

    pub(super) fn new_stream(&mut self, conn: ConnId, channel: Channel, after: i64) -> u64 {
        let key = self.streams.next_key;
        self.streams.next_key += 1;
        let now_ms = self.now_ms;
        let stream = Stream {
            conn,
            channel,
            pongs: Pongs::default(),
            mode: Mode::Opening,
            job: None,
            feed: None,
            last: after,
            missed: 0,
            over: false,
            has_place: false,
            beat_ms: now_ms,
            ending_since_ms: now_ms,
        };
        self.streams.states.insert(key, Box::new(stream));
        key
    }

    /// Handles the result of a stream's job look-up.
    pub(super) fn stream_found(&mut self, connections: &mut Connections, key: u64, job: Result<i64, (u16, String)>) {
        let Some(stream) = self.streams.states.get_mut(&key) else { return };
        let conn = stream.conn;
        if self.conns.get(conn.index()).and_then(Option::as_ref).is_none_or(|known| known.id != conn) {
            self.streams.states.remove(&key);
            return;
        }
        match (&mut stream.channel, job) {
            (Channel::ServerSent { seq, meta, .. }, Err((status, text))) => {
                let mut bytes = Vec::new();
                let answer = ServerAnswer::json(status, error_json(&text));
                let answer = if status == 503 { answer.with("Retry-After", "1") } else { answer };
                answer.encode(meta, &mut bytes);
                let seq = *seq;
                self.streams.states.remove(&key);
                self.answered(connections, conn, seq, bytes, None);
            }
            (Channel::WebSocket(_), Err((_, text))) => {
                stream.send_text(connections, &error_json(&text));
                stream.end(connections, NORMAL, self.now_ms);
            }
            (Channel::ServerSent { seq, .. }, Ok(job)) => {
                let seq = *seq;
                self.watch(key, job);
                self.stream_ready(connections, conn, seq, key);
            }
            (Channel::WebSocket(_), Ok(job)) => {
                self.watch(key, job);
                self.replay(key);
            }
        }
    }

    /// Puts a ready stream into its slot in the order of answers.
    fn stream_ready(&mut self, connections: &mut Connections, id: ConnId, seq: u64, key: u64) {
        let Some(conn) = self.conn(id) else { return };
        if let Some(slot) = conn.slot_mut(seq) {
            *slot = Slot::Stream { by: Upgrade::Stream(key) };
        }
        self.advance(connections, id);
    }

    /// Begins the replay after the earlier answers have been sent. The head is sent with the first result.
    pub(super) fn stream_begins(&mut self, connections: &mut Connections, key: u64) {
        let (draining, now_ms) = (self.draining, self.now_ms);
        let Some(stream) = self.streams.states.get_mut(&key) else { return };
        if draining {
            stream.begin(connections);
            return stream.end(connections, GOING_AWAY, now_ms);
        }
        if stream.mode == Mode::Opening {
            self.replay(key);
        }
    }

    fn watch(&mut self, key: u64, job: i64) {
        if let Some(stream) = self.streams.states.get_mut(&key) {
            stream.job = Some(job);
            self.streams.by_job.entry(job).or_default().push(key);
            self.admin.jobs().hub().watch(job, self.id);
        }
    }

    /// Orders the next step of a stream's replay.
    fn replay(&mut self, key: u64) {
        let Some(stream) = self.streams.states.get_mut(&key) else { return };
        let Some(job) = stream.job else { return };
        stream.mode = Mode::Replaying;
        let inbox: Arc<Inbox> = Arc::clone(&self.inbox);
        let answer = move |replay: Result<Replay, StoreError>| {
            let replay = replay.map_err(|error| error.to_string());
            inbox.push(Message::StreamReplay { stream: key, replay });
        };
        match &stream.feed {
            Some(filter) => self.admin.jobs().feed(Arc::clone(filter), stream.last, Box::new(answer)),
            None => self.admin.jobs().replay(job, stream.last, Box::new(answer)),
        }
    }

    /// Handles a step of a replay.
    pub(super) fn stream_replayed(&mut self, connections: &mut Connections, key: u64, replay: Result<Replay, String>) {
        let now_ms = self.now_ms;
        let Some(stream) = self.streams.states.get_mut(&key) else { return };
        if stream.mode != Mode::Replaying {
            return;
        }
        let Replay { frames, at_end, finished, read_to } = match replay {
            Ok(replay) => replay,
            Err(text) => {
                tracing::error!("a stream of job events ends: {text}");
                stream.begin(connections);
                return stream.end(connections, INTERNAL_ERROR, now_ms);
            }
        };
        if at_end && finished && frames.is_empty() && stream.finish_unbegun(connections, now_ms) {
            return;
        }
        stream.begin(connections);
        for frame in &frames {
            stream.send(connections, frame);
        }
        if stream.feed.is_some() {
            stream.last = stream.last.max(read_to);
            if !std::mem::replace(&mut stream.has_place, true) && frames.is_empty() {
                // A client that loses the stream before its first event resumes here.
                stream.beat(connections);
            }
        }
        let caught_up = at_end && stream.missed <= stream.last;
        if at_end && finished || caught_up && stream.over {
            stream.end(connections, NORMAL, now_ms);
        } else if caught_up {
            stream.mode = Mode::Live;
        } else if connections.unsent(stream.conn) > REPLAY_UNSENT_BYTES_MAX {
            stream.mode = Mode::Behind;
            connections.await_sent(stream.conn);
        } else {
            self.replay(key);
        }
    }

    /// Handles committed events.
    pub(super) fn job_events(&mut self, connections: &mut Connections, frames: &[Arc<JobFrame>]) {
        let now_ms = self.now_ms;
        let mut to_read = Vec::new();
        let live_max = if self.lacks_memory_for_streams() { REPLAY_UNSENT_BYTES_MAX } else { LIVE_UNSENT_BYTES_MAX };
        let Streams { states, by_job, .. } = &mut self.streams;
        for frame in frames {
            for key in by_job.get(&frame.job_id).into_iter().flatten() {
                let Some(stream) = states.get_mut(key) else { continue };
                if stream.mode == Mode::Live && connections.unsent(stream.conn) > live_max {
                    stream.mode = Mode::Behind;
                    connections.await_sent(stream.conn);
                }
                stream.over |= frame.is_end;
                match stream.mode {
                    Mode::Live if stream.feed.is_some() => to_read.push(*key),
                    Mode::Live if frame.is_end => stream.end(connections, NORMAL, now_ms),
                    Mode::Live => stream.send(connections, frame),
                    _ => stream.missed = stream.missed.max(frame.event_id),
                }
            }
        }
        // A second event in the batch finds the stream already reading.
        for key in to_read {
            self.replay(key);
        }
    }

    /// Handles a connection whose reader has taken the unsent bytes.
    pub(super) fn stream_drained(&mut self, connections: &mut Connections, key: u64) {
        if let Some(stream) = self.streams.states.get_mut(&key)
            && stream.pongs.taken()
        {
            connections.set_reading(stream.conn, true);
        }
        if self.streams.states.get(&key).is_some_and(|stream| stream.mode == Mode::Behind) {
            self.replay(key);
        }
    }

    /// Handles bytes from a watcher: only control frames have a meaning.
    pub(super) fn stream_data(&mut self, connections: &mut Connections, key: u64, bytes: &[u8]) {
        let Some(stream) = self.streams.states.get_mut(&key) else { return };
        let Channel::WebSocket(session) = &mut stream.channel else { return };
        let closed = session.receive(bytes).any(|event| matches!(event, Event::Closed { .. }));
        stream.flush(connections);
        if closed {
            connections.close(stream.conn);
        }
    }

    /// Removes a stream whose connection is closed, or which never gets its turn.
    pub(super) fn stream_gone(&mut self, key: u64) {
        let Some(stream) = self.streams.states.remove(&key) else { return };
        let Some(job) = stream.job else { return };
        self.admin.jobs().hub().unwatch(job, self.id);
        if let Some(keys) = self.streams.by_job.get_mut(&job) {
            keys.retain(|known| *known != key);
            if keys.is_empty() {
                self.streams.by_job.remove(&job);
            }
        }
    }

    /// Checks a stream whose peer has been silent for `quiet_ms`: a peer that does not answer pings is closed.
    pub(super) fn sweep_stream(&self, connections: &mut Connections, key: u64, quiet_ms: u64) {
        let Some(stream) = self.streams.states.get(&key) else { return };
        let silent = quiet_ms > HEARTBEAT_MS + self.limits.ws_pong_timeout_ms;
        if silent && matches!(stream.channel, Channel::WebSocket(_)) {
            connections.abort(stream.conn);
        }
    }

    /// Sends heartbeats, and closes streams whose peers don't answer a close frame.
    pub(super) fn sweep_streams(&mut self, connections: &mut Connections) {
        let now_ms = self.now_ms;
        let close_wait_ms = if self.draining { CLOSE_WAIT_DRAINING_MS } else { CLOSE_WAIT_MS };
        for stream in self.streams.states.values_mut() {
            if stream.mode == Mode::Ending {
                if connections.unsent(stream.conn) > 0 {
                    // The write time-out limits this wait.
                    stream.ending_since_ms = now_ms;
                }
                if now_ms.saturating_sub(stream.ending_since_ms) > close_wait_ms {
                    connections.close(stream.conn);
                }
            } else if stream.mode != Mode::Opening && now_ms.saturating_sub(stream.beat_ms) > HEARTBEAT_MS {
                stream.beat_ms = now_ms;
                stream.beat(connections);
            }
        }
    }

    /// Ends all streams when the server stops.
    pub(super) fn drain_streams(&mut self, connections: &mut Connections) {
        let now_ms = self.now_ms;
        for stream in self.streams.states.values_mut() {
            let begun = !matches!((&stream.channel, stream.mode), (Channel::ServerSent { .. }, Mode::Opening));
            if begun {
                stream.begin(connections);
                stream.end(connections, GOING_AWAY, now_ms);
            }
        }
    }
}

impl Stream {
    /// Sends an event unless it was sent before.
    fn send(&mut self, connections: &mut Connections, frame: &JobFrame) {
        if frame.event_id <= self.last {
            return;
        }
        self.last = frame.event_id;
        let Some(outbox) = connections.outbox(self.conn) else { return };
        match &self.channel {
            Channel::WebSocket(session) => {
                if !session.is_closing() {
                    outbox.push_shared(frame.websocket(|json| ws::encode_frame(Kind::Text, json.as_bytes())));
                }
            }
            Channel::ServerSent { meta, .. } => {
                let id = self.place(frame.event_id);
                let text = format!("id: {id}\ndata: {}\n\n", frame.json);
                push_chunk(outbox.buffer(), text.as_bytes(), meta.http_1_0);
            }
        }
    }

    /// The cursor or event id with which a client resumes after event number `id`.
    fn place(&self, id: i64) -> String {
        if self.feed.is_some() { Cursor::text(id) } else { id.to_string() }
    }

    /// Sends the head of a streamed answer, unless it has been sent.
    fn begin(&mut self, connections: &mut Connections) {
        let Channel::ServerSent { meta, begun, .. } = &mut self.channel else { return };
        if !std::mem::replace(begun, true)
            && let Some(outbox) = connections.outbox(self.conn)
        {
            push_events_head(outbox.buffer(), meta);
        }
    }

    /// Answers 204 if the client has seen all events of a finished job: after any other answer an `EventSource` would
    /// reconnect for ever (HTML standard, server-sent events, "processing model"). Returns false if this does not apply.
    fn finish_unbegun(&mut self, connections: &mut Connections, now_ms: u64) -> bool {
        let Channel::ServerSent { meta, begun: false, .. } = &self.channel else { return false };
        if let Some(outbox) = connections.outbox(self.conn) {
            ServerAnswer { status: 204, ..ServerAnswer::default() }.encode(meta, outbox.buffer());
        }
        self.mode = Mode::Ending;
        self.ending_since_ms = now_ms;
        connections.close(self.conn);
        true
    }

    fn send_text(&mut self, connections: &mut Connections, text: &str) {
        if let Some(outbox) = connections.outbox(self.conn) {
            outbox.push(&ws::encode_frame(Kind::Text, text.as_bytes()));
        }
    }

    /// Ends the stream: no event follows.
    fn end(&mut self, connections: &mut Connections, code: u16, now_ms: u64) {
        if self.mode == Mode::Ending {
            return;
        }
        self.mode = Mode::Ending;
        self.ending_since_ms = now_ms;
        match &mut self.channel {
            Channel::WebSocket(session) => {
                session.close(code, "");
                self.flush(connections);
            }
            Channel::ServerSent { meta, .. } => {
                if let Some(outbox) = connections.outbox(self.conn).filter(|_| !meta.http_1_0) {
                    outbox.push(b"0\r\n\r\n");
                }
                connections.close(self.conn);
            }
        }
    }

    fn beat(&mut self, connections: &mut Connections) {
        let place = self.feed.as_ref().filter(|_| self.has_place).map(|_| Cursor::text(self.last));
        match &mut self.channel {
            Channel::WebSocket(session) => {
                session.ping();
                self.flush(connections);
                if let Some(place) = place {
                    self.send_text(connections, &format!("{{\"cursor\":\"{place}\"}}"));
                }
            }
            Channel::ServerSent { begun: false, .. } => {}
            Channel::ServerSent { meta, .. } => {
                // Browsers drop an event without data, but keep its id (HTML standard §9.2.6).
                let sign = place.map_or_else(|| ":\n\n".to_owned(), |place| format!("id: {place}\n\n"));
                if let Some(outbox) = connections.outbox(self.conn) {
                    push_chunk(outbox.buffer(), sign.as_bytes(), meta.http_1_0);
                }
            }
        }
    }

    /// Queues the output of the WebSocket protocol.
    fn flush(&mut self, connections: &mut Connections) {
        if let Channel::WebSocket(session) = &mut self.channel {
            self.pongs.send(session, connections, self.conn);
        }
    }
}

/// Appends the head of an answer that is a stream of events.
pub(super) fn push_events_head(out: &mut Vec<u8>, meta: &Meta) {
    let headers = [
        (b"Content-Type".as_slice(), b"text/event-stream".as_slice()),
        (b"Cache-Control", b"no-cache"),
        // Without this field, buffering proxies would delay the events.
        (b"X-Accel-Buffering", b"no"),
    ];
    encode_stream_head(out, &meta.head(200, 0), headers.into_iter());
    push_chunk(out, RETRY, meta.http_1_0);
}

/// Appends a chunk of a chunked body (RFC 9112 §7.1); for HTTP/1.0 the plain bytes, since the body ends with the
/// connection.
pub(super) fn push_chunk(out: &mut Vec<u8>, bytes: &[u8], http_1_0: bool) {
    if http_1_0 {
        out.extend_from_slice(bytes);
    } else {
        out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
        out.extend_from_slice(bytes);
        out.extend_from_slice(b"\r\n");
    }
}
