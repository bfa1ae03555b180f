//! The module's side of a call: the implementation of `include/cweb_stream.h` for requests and responses.
//!
//! Each executor thread has one [`CallState`], which serves its calls in turn. A call without streams costs a few stores.

use super::detached::{self, Detached};
use super::down::{BorrowedThread, Down, SharedDown, TRAILER_BYTES_MAX, errno_of};
use super::form::{self, FormReader};
use super::pipe::{Copying, Peek, Pipe, Reader, Writer, memory};
use super::running::{Entry, Key, Reason};
use super::{Begun, Uplink, limits};
use crate::abi::stream::{PartText, StreamCall};
use crate::domain::compress;
use crate::proto::form::multipart_boundary;
use crate::proto::http1::{RequestView, push_trailer};
use rustix::event::{EventfdFlags, eventfd};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Limit on one wait: a lost wake then does no harm, and a deadline is noticed.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// The number of bytes that are compressed at a time.
const CODED_PIECE_BYTES: usize = 64 * 1024;

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The facts about a call at its start.
pub(in crate::domain) struct Facts<'a> {
    pub(in crate::domain) key: Key,
    /// The name of the call's module.
    pub(in crate::domain) module: &'a str,
    pub(in crate::domain) uplink: &'a dyn Uplink,
    pub(in crate::domain) view: &'a RequestView<'a>,
    pub(in crate::domain) start: Instant,
    /// Whether a streamed answer may be compressed.
    pub(in crate::domain) compresses: bool,
    /// The call decides about a WebSocket: its answer is a whole one.
    pub(in crate::domain) is_handshake: bool,
    /// The route's own time limit.
    pub(in crate::domain) limit_ms: Option<u64>,
    /// The pipes of a call of a `CWEB_STREAM` route.
    pub(in crate::domain) stream: Option<Pipes>,
}

/// The pipes of a call with a slot of its own.
pub(in crate::domain) struct Pipes {
    pub(in crate::domain) up: Pipe,
    pub(in crate::domain) down: Pipe,
    pub(in crate::domain) length: Option<u64>,
    pub(in crate::domain) expects_continue: bool,
}

/// How a call has used its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::domain) enum Used {
    /// The response is sent as a whole.
    Whole,
    /// The call has streamed the answer itself.
    Streamed,
    /// The call has detached the answer.
    Detached,
}

/// The body of a request.
struct Up {
    reader: Reader,
    /// The position up to which bytes were returned to the writer.
    released: u64,
    length: Option<u64>,
    expects_continue: bool,
}

/// The facts about the running call.
#[derive(Clone)]
struct Running {
    uplink: Arc<dyn Uplink>,
}

/// The state of a call that the module's threads may access.
#[derive(Default)]
struct Inner {
    running: Option<Running>,
    /// The answer pipe of a call that has one, until the answer begins.
    down_pipe: Option<Pipe>,
    down: Option<SharedDown>,
    detached: bool,
}

/// The state of one executor thread's calls.
pub(in crate::domain) struct CallState {
    entry: Arc<Entry>,
    epoch: Instant,
    /// The facts of the running call, on the stack of its executor; read only during the call.
    facts: std::sync::atomic::AtomicPtr<Facts<'static>>,
    used: AtomicU8,
    /// In milliseconds since `epoch`; 0: not computed yet, [`NO_DEADLINE`]: none.
    deadline_ms: AtomicU64,
    /// The deadline of the route's own limit and the client's, in the same form: after it every read and write fails.
    asked_deadline_ms: AtomicU64,
    has_inner: AtomicBool,
    up: Mutex<Option<Up>>,
    inner: Mutex<Inner>,
    /// The parser of the body as a form, created when the handler first asks for a part.
    form: Mutex<Option<Box<FormReader>>>,
    /// The errno for which the body can't be read to its end; 0: none.
    body_failure: AtomicI32,
    /// An eventfd, created for the first wait for a call in another process.
    wake: OnceLock<OwnedFd>,
}

const NO_DEADLINE: u64 = u64::MAX;

impl CallState {
    /// Creates the state of the calling thread's executor.
    pub(in crate::domain) fn new() -> Arc<Self> {
        Arc::new(Self {
            entry: Entry::register(),
            epoch: Instant::now(),
            facts: std::sync::atomic::AtomicPtr::new(std::ptr::null_mut()),
            used: AtomicU8::new(Used::Whole as u8),
            deadline_ms: AtomicU64::new(0),
            asked_deadline_ms: AtomicU64::new(0),
            has_inner: AtomicBool::new(false),
            up: Mutex::new(None),
            inner: Mutex::default(),
            form: Mutex::new(None),
            body_failure: AtomicI32::new(0),
            wake: OnceLock::new(),
        })
    }

    /// Ends the use by this thread.
    pub(in crate::domain) fn retire(&self) {
        self.entry.unregister();
    }

    /// Runs `call`, the call that `facts` describe.
    pub(in crate::domain) fn during<T>(&self, facts: &mut Facts<'_>, call: impl FnOnce() -> T) -> T {
        self.entry.begin(facts.key);
        self.used.store(Used::Whole as u8, Ordering::Relaxed);
        self.deadline_ms.store(0, Ordering::Relaxed);
        self.asked_deadline_ms.store(0, Ordering::Relaxed);
        self.body_failure.store(0, Ordering::Relaxed);
        if let Some(pipes) = facts.stream.take() {
            let Pipes { up, down, length, expects_continue } = pipes;
            *unpoisoned(&self.up) = Some(Up { reader: Reader::new(up), released: 0, length, expects_continue });
            unpoisoned(&self.inner).down_pipe = Some(down);
            self.has_inner.store(true, Ordering::Relaxed);
        }
        self.facts.store(std::ptr::from_mut(facts).cast::<Facts<'static>>(), Ordering::Release);
        let value = call();
        self.facts.store(std::ptr::null_mut(), Ordering::Release);
        self.entry.end();
        value
    }

    /// Within [`CallState::during`]: runs `wait` with a descriptor that becomes readable when the call is canceled.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(in crate::domain) fn watched<T>(&self, wait: impl FnOnce(BorrowedFd<'_>) -> T) -> std::io::Result<T> {
        let event = match self.wake.get() {
            Some(event) => event,
            None => {
                let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                self.wake.get_or_init(|| made)
            }
        };
        // Clears a notice for an earlier call.
        let _ = rustix::io::read(event, &mut [0; 8]);
        self.entry.wake_by(Some(event.as_fd()));
        let value = wait(event.as_fd());
        self.entry.wake_by(None);
        Ok(value)
    }

    /// Whether the client of the running call has gone.
    pub(in crate::domain) fn is_client_gone(&self) -> bool {
        self.entry.reason() == Reason::ClientGone as u8
    }

    /// After [`CallState::during`]: returns how the answer was used. If the handler `returned`, the answer is ended; if the
    /// handler `gives_up`, it is ended as incomplete.
    pub(in crate::domain) fn finish(&self, returned: bool, gives_up: bool) -> Used {
        if !self.has_inner.swap(false, Ordering::Relaxed) {
            return Used::Whole;
        }
        if let Some(up) = unpoisoned(&self.up).take() {
            up.reader.pipe().leave(libc::ECANCELED);
            unpoisoned(&self.form).take();
        }
        let Inner { running, down, detached, .. } = std::mem::take(&mut *unpoisoned(&self.inner));
        let Some(down) = down else { return Used::Whole };
        if detached {
            return Used::Detached;
        }
        // This lock also waits for a thread that still writes, which the rules forbid: its bytes must not reach the next
        // user of the memory.
        let mut down = unpoisoned(&down);
        match running {
            Some(Running { uplink }) if returned && gives_up => down.fail(libc::ECANCELED, &*uplink),
            Some(Running { uplink }) if returned => match self.complete(&mut down, &*uplink) {
                Ok(()) => down.end(&*uplink),
                Err(errno) => down.fail(errno, &*uplink),
            },
            _ => down.writer.abandon(),
        }
        Used::Streamed
    }

    /// Writes the end of the answer after the handler's last bytes.
    fn complete(&self, down: &mut Down, uplink: &dyn Uplink) -> Result<(), i32> {
        if let Some(errno) = down.broken {
            return Err(errno);
        }
        if let Some(coder) = down.coder.take() {
            let last = coder.finish()?;
            self.write_raw(down, uplink, &last)?;
        }
        if !down.trailers.is_empty() {
            let trailers = std::mem::take(&mut down.trailers);
            down.writer.trailers_follow();
            self.write_raw(down, uplink, &trailers)?;
        }
        Ok(())
    }

    /// Writes bytes as they are, and waits while there is no room.
    fn write_raw(&self, down: &mut Down, uplink: &dyn Uplink, bytes: &[u8]) -> Result<(), i32> {
        let mut rest = bytes;
        loop {
            let count = down.writer.put(rest).map_err(errno_of)?;
            rest = rest.get(count..).unwrap_or_default();
            if count > 0 {
                down.tell(uplink);
            }
            if rest.is_empty() {
                return Ok(());
            }
            let patience = self.patience().ok_or(libc::ETIMEDOUT)?;
            down.writer.await_room();
            if down.writer.room().map_err(errno_of)? == 0 {
                down.writer.sleep(patience);
            }
            down.writer.awake();
        }
    }

    /// Whether the running call has begun its answer.
    pub(in crate::domain) fn is_streamed(&self) -> bool {
        self.used.load(Ordering::Relaxed) != Used::Whole as u8
    }

    /// After [`CallState::during`]: the status and the text for a handler that has returned an error and made no answer.
    pub(in crate::domain) fn answer_to_error(&self) -> (u16, String) {
        limits::answer_to_error(self.body_failure.load(Ordering::Relaxed))
    }

    fn body_failed(&self, errno: i32) -> i32 {
        self.body_failure.store(errno, Ordering::Relaxed);
        errno
    }

    fn facts(&self) -> Option<&Facts<'static>> {
        // SAFETY: `during` sets the pointer for the duration of the call, and a module asks for its call only then.
        unsafe { self.facts.load(Ordering::Acquire).as_ref() }
    }

    /// Milliseconds since `epoch`.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    fn deadline_ms(&self) -> u64 {
        let known = self.deadline_ms.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let deadline = self.facts().map_or(NO_DEADLINE, |facts| {
            let limit = facts
                .limit_ms
                .or_else(|| Some(limits::handler_timeout_ms()).filter(|limit| *limit > 0 && !self.has_body_stream()));
            let asked = limits::asked_ms(facts.view);
            let limit = limit.into_iter().chain(asked).min();
            limit.map_or(NO_DEADLINE, |limit| self.after_start(facts, limit))
        });
        self.deadline_ms.store(deadline, Ordering::Relaxed);
        deadline
    }

    /// The time `limit_ms` after the start of the call, in milliseconds since `epoch`.
    fn after_start(&self, facts: &Facts<'_>, limit_ms: u64) -> u64 {
        let start = u64::try_from(facts.start.saturating_duration_since(self.epoch).as_millis()).unwrap_or(0);
        start.saturating_add(limit_ms).max(1)
    }

    /// `ETIMEDOUT` after the time limit of the route or the client. The server's own limit concerns stuck handlers only.
    fn in_time(&self) -> Result<(), i32> {
        let mut deadline = self.asked_deadline_ms.load(Ordering::Relaxed);
        if deadline == 0 {
            let Some(facts) = self.facts() else { return Ok(()) };
            let limit = facts.limit_ms.into_iter().chain(limits::asked_ms(facts.view)).min();
            deadline = limit.map_or(NO_DEADLINE, |limit| self.after_start(facts, limit));
            self.asked_deadline_ms.store(deadline, Ordering::Relaxed);
        }
        let is_over = deadline != NO_DEADLINE && self.now_ms() >= deadline;
        if is_over { Err(libc::ETIMEDOUT) } else { Ok(()) }
    }

    fn has_body_stream(&self) -> bool {
        // While another thread reads, there is a body.
        self.up.try_lock().map_or(true, |up| up.is_some())
    }

    /// The longest permitted wait; `None`: the deadline has passed.
    fn patience(&self) -> Option<Duration> {
        let deadline = self.deadline_ms();
        if deadline == NO_DEADLINE {
            return Some(WAIT_MAX);
        }
        let left = deadline.checked_sub(self.now_ms()).filter(|left| *left > 0)?;
        Some(Duration::from_millis(left).min(WAIT_MAX))
    }

    /// Waits until the body has bytes, and returns their number; 0 at its end.
    fn await_body(&self, up: &mut Up) -> Result<usize, i32> {
        self.in_time()?;
        loop {
            match up.reader.peek(up.released) {
                Ok(Peek::Bytes(count)) => return Ok(count),
                Ok(Peek::Ended) => return Ok(0),
                Ok(Peek::Failed(errno)) => return Err(self.body_failed(errno)),
                Err(_) => return Err(libc::EIO),
                Ok(Peek::Empty) => {}
            }
            if std::mem::take(&mut up.expects_continue)
                && let Some(facts) = self.facts()
            {
                facts.uplink.notice(true);
            }
            let patience = self.patience().ok_or(libc::ETIMEDOUT)?;
            up.reader.await_bytes();
            if up.reader.peek(up.released) == Ok(Peek::Empty) {
                up.reader.sleep(patience);
            }
            up.reader.awake();
        }
    }

    /// Runs `what` with the form parser of the body, and with a function that reads more of the body.
    fn with_form<T>(&self, what: impl FnOnce(&mut FormReader, form::Read<'_>) -> Result<T, i32>) -> Result<T, i32> {
        let mut form = unpoisoned(&self.form);
        if form.is_none() {
            if unpoisoned(&self.up).is_none() {
                return Err(libc::EINVAL);
            }
            let view = self.facts().ok_or(libc::EINVAL)?.view;
            let boundary = view.header("content-type").and_then(multipart_boundary).ok_or(libc::EINVAL)?;
            *form = Some(Box::new(FormReader::new(boundary)));
        }
        let form = form.as_mut().ok_or(libc::EINVAL)?;
        let malformed = |errno| if errno == libc::EPROTO { self.body_failed(errno) } else { errno };
        what(form, &mut |into| self.read(into)).map_err(malformed)
    }

    /// Returns the used bytes of the body to the writer.
    fn release(&self, up: &mut Up) {
        let at = up.reader.at();
        if at != up.released {
            up.released = at;
            if up.reader.release(at, false)
                && let Some(facts) = self.facts()
            {
                facts.uplink.notice(false);
            }
        }
    }

    /// Begins the answer; `borrowed` is the thread that will send it.
    fn begin_in(
        &self,
        inner: &mut Inner,
        status: u16,
        headers: &[(&[u8], &[u8])],
        borrowed: Option<BorrowedThread>,
        may_compress: bool,
    ) -> Result<SharedDown, i32> {
        let facts = self.facts().filter(|facts| !facts.is_handshake).ok_or(libc::EPERM)?;
        let coded =
            if facts.compresses && may_compress { compress::streamed(facts.view, status, headers) } else { None };
        let (fields, coder) = coded.unwrap_or_default();
        let fields: Vec<(&[u8], &[u8])> = fields.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
        let headers = if fields.is_empty() { headers } else { fields.as_slice() };
        let (slot, pipe, left) = self.begin_pipe(inner, facts, status, headers)?;
        let uplink = facts.uplink.share();
        let (writer, trailers) = (Writer::new(pipe, Copying::Mapped), Vec::new());
        let uplink_of_down = Arc::clone(&uplink);
        let down = Down { slot, writer, left, coder, broken: None, trailers, borrowed, uplink: uplink_of_down };
        let down = Arc::new(Mutex::new(down));
        inner.down = Some(Arc::clone(&down));
        inner.running = Some(Running { uplink });
        self.has_inner.store(true, Ordering::Relaxed);
        self.used.store(Used::Streamed as u8, Ordering::Relaxed);
        Ok(down)
    }

    fn begin_pipe(
        &self,
        inner: &mut Inner,
        facts: &Facts<'_>,
        status: u16,
        headers: &[(&[u8], &[u8])],
    ) -> Result<(Option<u32>, Pipe, Option<u64>), i32> {
        if self.entry.reason() == Reason::ClientGone as u8 && inner.down_pipe.is_none() {
            return Err(libc::ECONNRESET);
        }
        let length = limits::declared_length(headers)?;
        let (slot, pipe) = match inner.down_pipe.take() {
            Some(pipe) => (None, pipe),
            None => {
                let (slot, pipe) = facts.uplink.take_slot().ok_or_else(|| facts.uplink.no_slot())?;
                (Some(slot), pipe)
            }
        };
        if let Err(errno) = facts.uplink.begin(&Begun { slot, status, headers, length }) {
            match slot {
                Some(slot) => facts.uplink.give_slot(slot),
                None => inner.down_pipe = Some(pipe),
            }
            return Err(errno);
        }
        Ok((slot, pipe, length))
    }

    fn down(&self) -> Result<(SharedDown, Arc<dyn Uplink>), i32> {
        let inner = unpoisoned(&self.inner);
        if inner.detached {
            return Err(libc::EPIPE);
        }
        let down = inner.down.clone().ok_or(libc::EINVAL)?;
        let Running { uplink } = inner.running.clone().ok_or(libc::EINVAL)?;
        Ok((down, uplink))
    }
}

impl StreamCall for CallState {
    fn has_body(&self) -> bool {
        unpoisoned(&self.up).is_some()
    }

    fn read(&self, into: &mut [MaybeUninit<u8>]) -> Result<usize, i32> {
        let mut up = unpoisoned(&self.up);
        let up = up.as_mut().ok_or(libc::EINVAL)?;
        self.release(up);
        if into.is_empty() {
            return Ok(0);
        }
        let mut copied = 0;
        let count = self.await_body(up)?.min(into.len());
        while copied < count {
            let range = up.reader.take(count - copied);
            let Some(room) = into.get_mut(copied..copied + range.len()) else { break };
            // SAFETY: `room` is writable memory with this many bytes.
            unsafe { memory(up.reader.pipe()).copy_out(range.start, room.as_mut_ptr().cast(), range.len()) };
            copied += range.len();
        }
        self.release(up);
        Ok(copied)
    }

    fn view(&self) -> Result<Option<(*const u8, usize)>, i32> {
        let mut up = unpoisoned(&self.up);
        let up = up.as_mut().ok_or(libc::EINVAL)?;
        self.release(up);
        let count = self.await_body(up)?;
        if count == 0 {
            return Ok(None);
        }
        let range = up.reader.take(count);
        Ok(Some((memory(up.reader.pipe()).pointer(range.start), range.len())))
    }

    fn next_part(&self) -> Result<Option<PartText>, i32> {
        self.with_form(|form, read| form.next_part(read))
    }

    fn part_read(&self, into: &mut [MaybeUninit<u8>]) -> Result<usize, i32> {
        self.with_form(|form, read| form.read(into, read))
    }

    fn length(&self) -> Option<u64> {
        match unpoisoned(&self.up).as_ref() {
            Some(up) => up.length,
            None => self.facts().map(|facts| facts.view.body.len() as u64),
        }
    }

    fn canceled(&self) -> i32 {
        let reason = self.entry.reason();
        if reason != 0 {
            return i32::from(reason);
        }
        let deadline = self.deadline_ms();
        let late = deadline != NO_DEADLINE && self.now_ms() >= deadline;
        if late { Reason::Deadline as i32 } else { 0 }
    }

    fn remaining_ms(&self) -> Option<u64> {
        let deadline = self.deadline_ms();
        (deadline != NO_DEADLINE).then(|| deadline.saturating_sub(self.now_ms()))
    }

    fn has_begun(&self) -> bool {
        self.is_streamed()
    }

    fn begin(&self, status: u16, headers: &[(&[u8], &[u8])]) -> Result<(), i32> {
        let mut inner = unpoisoned(&self.inner);
        if inner.down.is_some() {
            return Err(libc::EALREADY);
        }
        self.facts().ok_or(libc::EPERM)?;
        let borrowed = if inner.down_pipe.is_none() { Some(BorrowedThread::take()?) } else { None };
        self.begin_in(&mut inner, status, headers, borrowed, true).map(drop)
    }

    fn write(&self, bytes: &[u8]) -> Result<(), i32> {
        let (down, uplink) = self.down()?;
        let down = &mut *unpoisoned(&down);
        down.check_length(bytes.len())?;
        if let Some(errno) = down.broken {
            return Err(errno);
        }
        self.in_time().inspect_err(|errno| down.broken = Some(*errno))?;
        if down.coder.is_none() {
            // The client must be able to tell that these bytes are missing.
            let sent = self.write_raw(down, &*uplink, bytes);
            sent.inspect_err(|errno| down.broken = Some(*errno))?;
        }
        // Piece by piece, so that the compressed output of a step stays small.
        let mut pieces = bytes.chunks(CODED_PIECE_BYTES).peekable();
        while let Some(coder) = &mut down.coder
            && let Some(piece) = pieces.next()
        {
            let coded = coder.encode(piece, pieces.peek().is_none());
            // Compressed bytes that can't be sent are lost, so no valid data can follow them.
            let sent = coded.and_then(|coded| self.write_raw(down, &*uplink, &coded));
            sent.inspect_err(|errno| down.broken = Some(*errno))?;
        }
        down.count(bytes.len());
        Ok(())
    }

    fn trailer(&self, name: &[u8], value: &[u8]) -> Result<(), i32> {
        let (down, _) = self.down()?;
        let down = &mut *unpoisoned(&down);
        let before = down.trailers.len();
        if !push_trailer(&mut down.trailers, name, value) {
            return Err(libc::EINVAL);
        }
        if down.trailers.len() > TRAILER_BYTES_MAX {
            down.trailers.truncate(before);
            return Err(libc::E2BIG);
        }
        Ok(())
    }

    fn detach(&self, status: u16, headers: &[(&[u8], &[u8])]) -> Result<u64, i32> {
        let mut inner = unpoisoned(&self.inner);
        if inner.detached {
            return Err(libc::EALREADY);
        }
        let down = match inner.down.clone() {
            // The call's own slot belongs to another call after this one has returned.
            Some(down) if unpoisoned(&down).slot.is_none() => return Err(libc::EINVAL),
            Some(down) => down,
            None => {
                // A detached answer must not use the call's own slot, since there are few.
                let own = inner.down_pipe.take();
                // A detached answer uses no borrowed thread, since the handler is about to return its own.
                let begun = self.begin_in(&mut inner, status, headers, None, false);
                if begun.is_err() {
                    inner.down_pipe = own;
                }
                begun?
            }
        };
        let uplink = inner.running.as_ref().map(|running| Arc::clone(&running.uplink)).ok_or(libc::EINVAL)?;
        let module = self.facts().map_or("", |facts| facts.module);
        unpoisoned(&down).give_thread_back();
        inner.detached = true;
        self.used.store(Used::Detached as u8, Ordering::Relaxed);
        Ok(detached::add(Detached::new(down, uplink, module)))
    }
}
