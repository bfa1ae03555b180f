//! Requests of tests: parsed, routed and run as on a server, without a connection.

use crate::abi::manifest::RouteDecl;
use crate::abi::testing::{Handoff, TestAnswer};
use crate::domain::Instance;
use crate::domain::call::{AnswerMeta, GenerationRef, OwnedRequest, Task};
use crate::domain::executor::{Pool, Runner, RunnerFactory};
use crate::domain::in_process::InProcess;
use crate::domain::inbox::{Inbox, Message};
use crate::domain::local_call::Call;
use crate::domain::module_message::ModuleMessage;
use crate::domain::stream::here::ShardStreams;
use crate::domain::stream::{Answer, Full, Next, StreamSizes, StreamStart, Upload};
use crate::module::table::{RouteMatch, Table};
use crate::net::{Attached, BodyPiece, ConnId, Waker};
use crate::proto::http1::{
    Decoded, Limits, Method, RequestDecoder, RequestView, ResponseHead, Switching, encode_response, http_date,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Limit on the threads that run handlers.
const THREADS_MAX: usize = 64;
/// Limit, in bytes, on the body of a request to a route without a limit of its own.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Limit, in bytes, on the body of any request.
const ROUTE_BODY_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Limit, in bytes, on a piece of a body that is handed over at once.
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// Intervals between two checks of a handler's progress: the first and the longest.
const LOOK_MIN: Duration = Duration::from_micros(50);
const LOOK_MAX: Duration = Duration::from_millis(2);
/// Limits on the streams of one request.
const STREAMS: StreamSizes = StreamSizes { calls_max: 1, buffer_bytes: 1 << 20, answers_max: 1 };

/// State shared by the thread of a call and the thread that waits for it.
#[derive(Default)]
struct Progress {
    handoff: Handoff,
    has_returned: AtomicBool,
}

impl Progress {
    fn is_over(&self) -> bool {
        let is_over = self.has_returned.load(Ordering::Acquire);
        if is_over {
            self.handoff.pass();
        }
        is_over
    }
}

/// A call and its progress.
pub(super) struct TestCall {
    call: Call,
    progress: Arc<Progress>,
}

/// An executor of the server. Race detectors watch pthread mutexes and don't see the server's own, so this orders the steps of
/// tests and handlers for them.
struct TestRunner(Box<dyn Runner>);

impl Runner<TestCall> for TestRunner {
    fn run(&mut self, TestCall { call, progress }: TestCall) {
        progress.handoff.pass();
        self.0.run(call);
        progress.handoff.pass();
        progress.has_returned.store(true, Ordering::Release);
    }
}

/// Keeps the module loaded while its handlers run.
pub(super) struct Alone(pub(super) Arc<dyn Instance>);

impl GenerationRef for Alone {
    fn instance(&self) -> &dyn Instance {
        &*self.0
    }

    fn ran(&self, _unit: usize, _elapsed: Duration, _answer_bytes: usize) {}
}

/// The state of one call.
struct Exchange {
    inbox: Arc<Inbox>,
    progress: Arc<Progress>,
    upload: Option<(Upload, Arc<Vec<u8>>, usize)>,
    answer: Option<TestAnswer>,
    flow: Option<Answer>,
}

/// Makes requests; see the module's documentation.
pub(super) struct Exchanges {
    table: Arc<Table>,
    alone: Arc<Alone>,
    pool: Pool<TestCall>,
    /// Distinguishes the streams of one request from those of others.
    next: AtomicUsize,
}

impl Exchanges {
    pub(super) fn new(table: Arc<Table>, alone: Arc<Alone>) -> io::Result<Self> {
        let executor = || Box::new(TestRunner(Box::new(InProcess::executor()))) as Box<dyn Runner<TestCall>>;
        let factory: RunnerFactory<TestCall> = Arc::new(executor);
        let pool = Pool::start(1, THREADS_MAX, Vec::new(), factory)?;
        Ok(Self { table, alone, pool, next: AtomicUsize::new(0) })
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// Makes a request and waits for the whole answer.
    pub(super) fn request(&self, method: &[u8], target: &[u8], headers: &[u8], body: &[u8]) -> TestAnswer {
        let bytes = request_bytes(method, target, headers, body);
        with_request(&bytes, |view| self.answer(view))
    }

    fn answer(&self, view: &RequestView<'_>) -> TestAnswer {
        let found = self.table.route(view.method().as_str(), view.path());
        self.answer_by(found, view, None)
    }

    /// Asks route number `route` whether it accepts a handshake.
    pub(super) fn handshake(&self, route: usize, view: &RequestView<'_>, switching: Switching) -> TestAnswer {
        self.run(route, view, Some(switching)).unwrap_or_else(|_| plain(view, 500, &[], "the handshake was declined\n"))
    }

    fn answer_by(&self, found: RouteMatch, view: &RequestView<'_>, switching: Option<Switching>) -> TestAnswer {
        let RouteMatch::Found { route, .. } = found else { return self.unserved(view, found) };
        match self.run(route, view, switching) {
            Ok(answer) => answer,
            Err(by) => {
                let next = self.table.after_declined(&by, view.method().as_str(), view.path());
                self.answer_by(next, view, None)
            }
        }
    }

    /// The server's answer to a request that no route matches.
    fn unserved(&self, view: &RequestView<'_>, found: RouteMatch) -> TestAnswer {
        match found {
            _ if view.method() == Method::Options => plain(view, 200, &[], ""),
            RouteMatch::MethodNotAllowed { allow } => {
                plain(view, 405, &[("Allow", &allow)], &format!("this path answers {allow}\n"))
            }
            _ if self.table.websocket(view.path()).is_some() => {
                plain(view, 426, &[("Upgrade", "websocket")], "this path is a WebSocket\n")
            }
            _ => plain(view, 404, &[], "no module serves this path\n"),
        }
    }

    /// Runs a route.
    ///
    /// # Errors
    /// The name of the module that declined the request.
    fn run(&self, route: usize, view: &RequestView<'_>, switching: Option<Switching>) -> Result<TestAnswer, String> {
        let declared = self.alone.instance().manifest().routes.get(route);
        if switching.is_none() && declared.is_some_and(RouteDecl::is_handshake) {
            return Ok(plain(view, 426, &[("Upgrade", "websocket")], "this path speaks WebSocket\n"));
        }
        let limit = declared.and_then(RouteDecl::body_bytes_max);
        let is_stream = declared.is_some_and(RouteDecl::is_stream);
        if view.body.len() > limit.unwrap_or(if is_stream { usize::MAX } else { BODY_BYTES_MAX }) {
            return Ok(plain(view, 413, &[], "the body is too large\n"));
        }
        let failed = |error: io::Error| plain(view, 500, &[], &format!("the test can't make a request: {error}\n"));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let streams = match ShardStreams::new(number, STREAMS) {
            Ok(streams) => streams,
            Err(error) => return Ok(failed(error)),
        };
        let waker = match Waker::new() {
            Ok(waker) => Arc::new(waker),
            Err(error) => return Ok(failed(error)),
        };
        let slot = if is_stream { streams.take_call() } else { None };
        let inbox = Arc::new(Inbox::with_streams(waker, Some(streams)));
        let upload = slot.as_ref().map(|slot| (Upload::new(slot), Arc::new(view.body.to_vec()), 0));
        let length = Some(view.body.len() as u64);
        let stream = slot.map(|slot| Box::new(StreamStart { slot, length, expects_continue: false }));
        // A handler that takes its body in pieces does not find the body in its request.
        let whole = RequestView { body: if stream.is_some() { &[] } else { view.body }, shared: None, ..*view };
        let meta = AnswerMeta { switching: switching.map(Arc::new), ..meta_of(view) };
        let request = OwnedRequest::copy(&whole);
        let work = Task::Request { conn: ConnId::default(), seq: 0, route, request, meta, stream };
        let progress = self.start(&inbox, work);
        Exchange { inbox, progress, upload, answer: None, flow: None }.finish()
    }

    /// Gives work to the executors.
    fn start(&self, inbox: &Arc<Inbox>, work: Task) -> Arc<Progress> {
        let progress = Arc::<Progress>::default();
        let hold = Arc::clone(&self.alone) as Arc<dyn GenerationRef>;
        let call = Call { hold, reply: Arc::clone(inbox), work };
        progress.handoff.pass();
        self.pool.push(TestCall { call, progress: Arc::clone(&progress) });
        progress
    }

    /// Runs callbacks of a WebSocket, and waits until they have returned.
    pub(super) fn call_back(&self, work: Task) -> io::Result<()> {
        let inbox = Arc::new(Inbox::new(Arc::new(Waker::new()?)));
        let progress = self.start(&inbox, work);
        let mut look = Look::default();
        while !progress.is_over() {
            look.sleep();
        }
        Ok(())
    }
}

/// Waits with growing intervals.
struct Look(Duration);

impl Default for Look {
    fn default() -> Self {
        Self(LOOK_MIN)
    }
}

impl Look {
    fn sleep(&mut self) {
        std::thread::sleep(self.0);
        self.0 = (self.0 * 2).min(LOOK_MAX);
    }
}

impl Exchange {
    /// Hands over the body and takes the answer, until both are complete and the handler has returned.
    fn finish(mut self) -> Result<TestAnswer, String> {
        let mut look = Look::default();
        loop {
            let has_moved = self.hand_over() | self.take();
            while let Some(message) = self.inbox.pop() {
                let Message::Module(message) = message else { continue };
                match message {
                    ModuleMessage::Answer { bytes, lent, .. } => self.answer = Some(whole(&bytes, lent)),
                    ModuleMessage::Declined(declined) => return Err(declined.by),
                    ModuleMessage::StreamBegin(begin) => {
                        self.answer = Some(TestAnswer { body: Vec::new(), ..whole(&begin.head, None) });
                        self.flow = Some(begin.answer);
                    }
                    _ => {}
                }
            }
            let is_complete = self.answer.is_some() && self.flow.is_none();
            if self.progress.is_over() && self.inbox.is_empty() {
                if is_complete {
                    return Ok(self.answer.unwrap_or_default());
                }
                if self.flow.is_none() {
                    // The handler has ended the connection without an answer.
                    return Ok(TestAnswer::default());
                }
            }
            if has_moved {
                look = Look::default();
            } else {
                look.sleep();
            }
        }
    }

    /// Hands over the next bytes of the body. Returns whether there was progress.
    fn hand_over(&mut self) -> bool {
        let Some((upload, body, at)) = &mut self.upload else { return false };
        let rest = body.get(*at..).unwrap_or_default();
        if rest.is_empty() {
            upload.end(None);
            // Dropping the upload reports that the client is gone; after `end` it reports nothing more.
            self.upload = None;
            return true;
        }
        match upload.room() {
            Ok(room) => {
                let piece = rest.get(..room.min(PIECE_BYTES_MAX)).unwrap_or(rest);
                *at += piece.len();
                if upload.put(piece).is_err() {
                    self.upload = None;
                }
                true
            }
            Err(Full::Now) => false,
            Err(Full::Ever) => {
                self.upload = None;
                true
            }
        }
    }

    /// Takes the next bytes of an answer in pieces. Returns whether there was progress.
    fn take(&mut self) -> bool {
        let (Some(flow), Some(answer)) = (&mut self.flow, &mut self.answer) else { return false };
        match flow.next(PIECE_BYTES_MAX) {
            Next::Copied(bytes) => answer.body.extend(bytes),
            Next::Lent(lent) => answer.body.extend(lent.copy(0..lent.len())),
            Next::Empty => return false,
            Next::Ended { .. } | Next::Failed => self.flow = None,
        }
        true
    }
}

/// The bytes of a request; `headers` has some of its header fields, one per line.
pub(super) fn request_bytes(method: &[u8], target: &[u8], headers: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = [method, b" ", target, b" HTTP/1.1\r\n"].concat();
    let (mut has_host, mut has_length) = (false, false);
    for line in headers.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end).filter(|line| !line.is_empty()) {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        has_host |= name.eq_ignore_ascii_case(b"host");
        has_length |= name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding");
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(b"\r\n");
    }
    if !has_host {
        bytes.extend_from_slice(b"Host: localhost\r\n");
    }
    if !has_length && (!body.is_empty() || matches!(method, b"POST" | b"PUT" | b"PATCH")) {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// Parses a request as the server does. Returns the answer of `answer`, or the refusal.
pub(super) fn with_request(bytes: &[u8], answer: impl FnOnce(&RequestView<'_>) -> TestAnswer) -> TestAnswer {
    let limits = Limits { body_bytes_max: ROUTE_BODY_BYTES_MAX, ..Limits::default() };
    let (mut decoder, mut at) = (RequestDecoder::new(limits), 0);
    // A request is complete after a few steps: the head, the body, and nothing else.
    for _ in 0..4 {
        match decoder.decode(bytes.get(at..).unwrap_or_default()) {
            Ok(Decoded::Request { mut view, .. }) => {
                view.peer = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
                return answer(&view);
            }
            Ok(Decoded::Body { consumed, .. } | Decoded::NeedMore { consumed }) => at += consumed,
            Err(error) => return refused(error.status(), &format!("{error}\n")),
        }
    }
    refused(400, "the request of the test is not complete: does Content-Length fit the body?\n")
}

fn meta_of(view: &RequestView<'_>) -> AnswerMeta {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    AnswerMeta {
        date: http_date(now),
        keep_alive: view.keep_alive(),
        http_1_0: view.http_1_0(),
        head_only: view.method() == Method::Head,
        cors_origin: None,
        preflight: None,
        switching: None,
    }
}

/// One of the server's own answers.
pub(super) fn plain(view: &RequestView<'_>, status: u16, headers: &[(&str, &str)], text: &str) -> TestAnswer {
    encoded(&meta_of(view).head(status, text.len()), headers, text)
}

fn refused(status: u16, text: &str) -> TestAnswer {
    let meta = AnswerMeta {
        date: http_date(0),
        keep_alive: false,
        http_1_0: false,
        head_only: false,
        cors_origin: None,
        preflight: None,
        switching: None,
    };
    encoded(&meta.head(status, text.len()), &[], text)
}

fn encoded(head: &ResponseHead<'_>, headers: &[(&str, &str)], text: &str) -> TestAnswer {
    let mut bytes = Vec::new();
    let kind = [("Content-Type", "text/plain; charset=utf-8")];
    let fields = kind.iter().chain(headers).map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    encode_response(&mut bytes, head, fields, text.as_bytes());
    whole(&bytes, None)
}

/// Splits an encoded answer into its parts.
fn whole(bytes: &[u8], attached: Option<Attached>) -> TestAnswer {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let (head, body) = bytes.split_at(end);
    let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or_default();
    let mut body = body.to_vec();
    match attached {
        Some(Attached::Lent(lent)) => body.extend(lent.copy(0..lent.len())),
        Some(Attached::Pieces(pieces)) => {
            for piece in pieces {
                match piece {
                    BodyPiece::Bytes(bytes) => body.extend(bytes),
                    BodyPiece::File(range) => body.extend(range.read_all().unwrap_or_default()),
                }
            }
        }
        None => {}
    }
    TestAnswer { status, head: head.to_vec(), body }
}
