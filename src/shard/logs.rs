//! Streams of a module's log lines: `GET /mgnt/NAME/logs` as server-sent events.
//!
//! A stream remembers the number of the last line that its client was sent. Further lines are read from the logbook when
//! there are new ones and the client has taken the earlier ones, so that a slow client costs no memory. A client that is
//! slower than the module loses lines and is told how many.

use super::Shard;
use super::begun::Begun;
use super::conn::{Slot, Upgrade};
use super::origin::Origin;
use super::streams::{is_event_stream_of, push_chunk, push_events_head};
use crate::admin::{LogsQuery, log_line, logs_query};
use crate::domain::inbox::{Inbox, Message};
use crate::logbook::{self, Batch, From, Watcher};
use crate::net::{ConnId, Connections};
use crate::proto::http1::RequestView;
use crate::server_response::{Meta, ServerAnswer, shutting_down};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Limit on the lines that are encoded at once.
const LINES_AT_ONCE: usize = 128;
/// Unsent bytes above which a stream waits for its client.
const UNSENT_BYTES_MAX: usize = 64 * 1024;
/// The interval between heartbeats.
const HEARTBEAT_MS: u64 = 15_000;

/// One stream.
struct LogStream {
    conn: ConnId,
    meta: Meta,
    module: String,
    /// The logbook's number for this watch.
    watch: u64,
    /// The number of the last line sent.
    last: u64,
    from: From,
    /// Whether the head of the answer has been sent.
    begun: bool,
    /// Whether the stream waits until the client has taken the unsent bytes.
    behind: bool,
    /// Whether the last chunk has been sent.
    ended: bool,
    beat_ms: u64,
}

/// The shard's streams of log lines, by key.
#[derive(Default)]
pub(super) struct LogStreams {
    states: HashMap<u64, LogStream>,
    next_key: u64,
    /// The watcher that the logbook wakes; made with the first stream.
    bell: Option<Arc<Bell>>,
}

impl LogStreams {
    pub(super) fn len(&self) -> usize {
        self.states.len()
    }
}

/// Makes the shard look for new lines: one message, however many lines come meanwhile.
struct Bell {
    inbox: Arc<Inbox>,
    /// Whether the message is in the inbox. Any thread sets this; the shard clears it before it looks, so that a later line
    /// leads to another message.
    rung: AtomicBool,
}

impl Watcher for Bell {
    fn wake(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.inbox.push(Message::LogLines);
        }
    }
}

impl Shard {
    /// Whether this request opens a stream of log lines: `GET /mgnt/NAME/logs` from a client that accepts events.
    pub(super) fn asks_for_logs(view: &RequestView<'_>) -> bool {
        is_event_stream_of(view, b"/mgnt/", b"/logs")
    }

    /// Begins a stream of lines. The stream takes over the connection after the earlier answers.
    pub(super) fn begin_logs(
        &mut self,
        origin: &Origin,
        view: &RequestView<'_>,
        meta: Meta,
        out: &mut Vec<u8>,
    ) -> Begun {
        let query = match logs_query(view) {
            Ok(query) => query,
            Err(answer) => {
                answer.encode(&meta, out);
                return Begun::Answered;
            }
        };
        if self.draining {
            shutting_down().encode(&meta, out);
            return Begun::Answered;
        }
        let LogsQuery { module, from } = query;
        self.begin_lines(origin, module, from, meta)
    }

    /// Begins a stream of the lines of `module`, which may be missing.
    pub(super) fn begin_lines(&mut self, origin: &Origin, module: String, from: From, meta: Meta) -> Begun {
        let key = self.logs.next_key;
        self.logs.next_key += 1;
        let inbox = Arc::clone(&self.inbox);
        let bell = self.logs.bell.get_or_insert_with(|| Arc::new(Bell { inbox, rung: AtomicBool::new(false) }));
        let (watch, last) = logbook::watch(&module, from, Arc::clone(bell) as _);
        let (conn, beat_ms) = (origin.id, self.now_ms);
        let stream =
            LogStream { conn, meta, module, watch, last, from, begun: false, behind: false, ended: false, beat_ms };
        self.logs.states.insert(key, stream);
        self.inbox.push(Message::LogsReady { conn, seq: origin.seq, stream: key });
        Begun::Running { expected: 0 }
    }

    /// Puts a ready stream of lines into its slot in the order of answers.
    pub(super) fn logs_ready(&mut self, connections: &mut Connections, id: ConnId, seq: u64, key: u64) {
        match self.conn(id).and_then(|conn| conn.slot_mut(seq)) {
            Some(slot) => *slot = Slot::Stream { by: Upgrade::Logs(key) },
            None => return self.logs_gone(key),
        }
        self.advance(connections, id);
    }

    /// Starts the stream after the earlier answers have been sent.
    pub(super) fn logs_begin(&mut self, connections: &mut Connections, key: u64) {
        let draining = self.draining;
        let Some(stream) = self.logs.states.get_mut(&key) else { return };
        if !std::mem::replace(&mut stream.begun, true)
            && let Some(outbox) = connections.outbox(stream.conn)
        {
            push_events_head(outbox.buffer(), &stream.meta);
        }
        if draining {
            return stream.end(connections);
        }
        stream.go_on(connections);
    }

    /// Sends new lines on all streams.
    pub(super) fn log_lines(&mut self, connections: &mut Connections) {
        if let Some(bell) = &self.logs.bell {
            bell.rung.store(false, Ordering::Release);
        }
        for stream in self.logs.states.values_mut().filter(|stream| !stream.behind) {
            stream.go_on(connections);
        }
    }

    /// Continues a stream whose client has taken the unsent bytes.
    pub(super) fn logs_drained(&mut self, connections: &mut Connections, key: u64) {
        if let Some(stream) = self.logs.states.get_mut(&key) {
            stream.behind = false;
            stream.go_on(connections);
        }
    }

    /// Removes a stream whose connection is closed, or which never gets its turn.
    pub(super) fn logs_gone(&mut self, key: u64) {
        if let Some(stream) = self.logs.states.remove(&key) {
            logbook::unwatch(&stream.module, stream.watch);
        }
    }

    /// Sends heartbeats, and looks again for lines on streams whose logbook was locked at the last look.
    pub(super) fn sweep_logs(&mut self, connections: &mut Connections) {
        let now_ms = self.now_ms;
        logbook::settle();
        for stream in self.logs.states.values_mut().filter(|stream| stream.begun && !stream.ended) {
            if !stream.behind {
                stream.go_on(connections);
            }
            if now_ms.saturating_sub(stream.beat_ms) > HEARTBEAT_MS {
                stream.beat_ms = now_ms;
                if let Some(outbox) = connections.outbox(stream.conn) {
                    push_chunk(outbox.buffer(), b":\n\n", stream.meta.http_1_0);
                }
            }
        }
    }

    /// Ends all streams when the server stops.
    pub(super) fn drain_logs(&mut self, connections: &mut Connections) {
        for stream in self.logs.states.values_mut().filter(|stream| stream.begun) {
            stream.end(connections);
        }
    }

    /// Removes all streams.
    pub(super) fn clear_logs(&mut self) {
        let keys: Vec<u64> = self.logs.states.keys().copied().collect();
        keys.into_iter().for_each(|key| self.logs_gone(key));
    }

    /// Whether an upgrade continues after its client has closed its side.
    pub(super) fn outlives_eof(&self, by: Upgrade) -> bool {
        match by {
            Upgrade::Socket(_) => false,
            Upgrade::Stream(key) => self.streams.outlive_eof(key),
            Upgrade::Logs(_) => true,
        }
    }

    /// The number of the shard's streams of all kinds.
    pub(super) fn streams_open(&self) -> usize {
        self.streams.len() + self.logs.len()
    }

    /// The answer when there are too many streams.
    pub(super) fn too_many_streams(&mut self, meta: &Meta, out: &mut Vec<u8>) -> Begun {
        self.stats.overloaded();
        ServerAnswer::text(503, "too many streams of events and logs\n").with("Retry-After", "1").encode(meta, out);
        Begun::Answered
    }
}

impl LogStream {
    /// Sends new lines, as far as the client takes them.
    fn go_on(&mut self, connections: &mut Connections) {
        while self.begun && !self.ended {
            if connections.unsent(self.conn) > UNSENT_BYTES_MAX {
                self.behind = true;
                return connections.await_sent(self.conn);
            }
            // Another thread is adding a line: the next message or sweep looks again.
            let Some(batch) = logbook::after(&self.module, self.last, LINES_AT_ONCE) else { return };
            if batch.lines.is_empty() {
                return;
            }
            self.last = batch.last;
            if let Some(outbox) = connections.outbox(self.conn) {
                let text = events(&batch, self.from);
                // An empty chunk would end the answer.
                if !text.is_empty() {
                    push_chunk(outbox.buffer(), text.as_bytes(), self.meta.http_1_0);
                }
            }
        }
    }

    fn end(&mut self, connections: &mut Connections) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some(outbox) = connections.outbox(self.conn).filter(|_| !self.meta.http_1_0) {
            outbox.push(b"0\r\n\r\n");
        }
        connections.close(self.conn);
    }
}

/// The lines as events: first `lost`, with the number of missing lines, then one event for each line.
fn events(batch: &Batch, from: From) -> String {
    let mut out = String::new();
    if batch.lost > 0 {
        let _ = write!(out, "event: lost\ndata: {}\n\n", serde_json::json!({ "lost": batch.lost }));
    }
    for line in batch.lines.iter().filter(|line| from.wants(line)) {
        let _ = write!(out, "id: {}\ndata: {}\n\n", line.id, log_line(line));
    }
    out
}
