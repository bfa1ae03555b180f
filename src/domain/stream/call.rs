//! The module's end of a call: what `include/cweb_stream.h` does with a request and a response.
//!
//! Each executor thread has one [`CallState`], for one call after the other. A call without streams costs it a few stores.

use super::detached::{self, Detached};
use super::pipe::{Closed, Copying, Peek, Pipe, Reader, Writer, memory};
use super::running::{Entry, Key, Reason};
use super::{Begun, Uplink};
use crate::abi::stream::StreamCall;
use crate::proto::http1::RequestView;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Waits end now and then, so that nothing is lost to a wake that did not come, and a deadline is noticed.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Answers that are streamed now from threads which other handlers need too.
static BORROWED_THREADS: AtomicU64 = AtomicU64::new(0);

/// One of them, until it is dropped.
struct BorrowedThread;

impl BorrowedThread {
    /// One more, or `EBUSY`.
    fn take() -> Result<Self, i32> {
        let borrowed = BORROWED_THREADS.fetch_add(1, Ordering::Relaxed);
        let taken = Self; // Dropped on refusal, which takes it off the count.
        if borrowed < super::borrowed_threads_max() { Ok(taken) } else { Err(libc::EBUSY) }
    }
}

impl Drop for BorrowedThread {
    fn drop(&mut self) {
        BORROWED_THREADS.fetch_sub(1, Ordering::Relaxed);
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a call begins with.
pub(in crate::domain) struct Facts<'a> {
    pub(in crate::domain) key: Key,
    pub(in crate::domain) uplink: &'a dyn Uplink,
    pub(in crate::domain) view: &'a RequestView<'a>,
    pub(in crate::domain) start: Instant,
    /// The route's own limit of time.
    pub(in crate::domain) limit_ms: Option<u64>,
    /// Of a route of `CWEB_STREAM`.
    pub(in crate::domain) stream: Option<Pipes>,
}

/// The pipes of a call that has a slot of its own.
pub(in crate::domain) struct Pipes {
    pub(in crate::domain) up: Pipe,
    pub(in crate::domain) down: Pipe,
    pub(in crate::domain) length: Option<u64>,
    pub(in crate::domain) expects_continue: bool,
}

/// How a call has used its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::domain) enum Used {
    /// As a whole, by its response.
    Whole,
    /// It has sent it itself.
    Streamed,
    /// It has handed it on.
    Detached,
}

/// The body of a request.
struct Up {
    reader: Reader,
    /// Position that was given back.
    released: u64,
    length: Option<u64>,
    expects_continue: bool,
}

/// The answer, while a handler or a detached stream sends it.
pub(super) struct Down {
    pub(super) slot: Option<u32>,
    pub(super) writer: Writer,
    /// Bytes that may still be sent.
    left: Option<u64>,
    /// The thread that sends it, if others need that too.
    borrowed: Option<BorrowedThread>,
    uplink: Arc<dyn Uplink>,
}

/// The answer, for all threads that write to it.
pub(super) type SharedDown = Arc<Mutex<Down>>;

impl Drop for Down {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.uplink.leave_slot(slot);
        }
    }
}

impl Down {
    /// Writes all of `bytes` or nothing. False: there is no room now; the shard says when there is.
    pub(super) fn write_all(&mut self, bytes: &[u8], uplink: &dyn Uplink, bound: usize) -> Result<bool, i32> {
        if bytes.len() > bound {
            return Err(libc::EMSGSIZE);
        }
        self.check_length(bytes.len())?;
        let fits = |down: &mut Self| down.writer.room().map_err(errno_of).map(|room| room >= bytes.len());
        if !fits(self)? {
            self.writer.await_room();
            if !fits(self)? {
                return Ok(false);
            }
            self.writer.awake();
        }
        self.writer.put(bytes).map_err(errno_of)?;
        self.count(bytes.len());
        if self.writer.take_reader() {
            uplink.notice(false);
        }
        Ok(true)
    }

    fn check_length(&self, bytes: usize) -> Result<(), i32> {
        if self.left.is_some_and(|left| (bytes as u64) > left) { Err(libc::EMSGSIZE) } else { Ok(()) }
    }

    fn count(&mut self, bytes: usize) {
        self.left = self.left.map(|left| left.saturating_sub(bytes as u64));
    }

    pub(super) fn end(&mut self, uplink: &dyn Uplink) {
        self.writer.end(None);
        if self.writer.take_reader() {
            uplink.notice(false);
        }
    }

    /// Its writer is nobody's thread that others wait for.
    pub(super) fn give_thread_back(&mut self) {
        self.borrowed = None;
    }
}

fn errno_of(closed: Closed) -> i32 {
    match closed {
        Closed::Gone(errno) => errno,
        Closed::Corrupt => libc::EIO,
    }
}

/// What is known of the call that runs.
#[derive(Clone)]
struct Running {
    uplink: Arc<dyn Uplink>,
}

/// What may be asked of a call by its module's threads.
#[derive(Default)]
struct Inner {
    running: Option<Running>,
    /// Where the pipes of a call are that has some, until its answer begins.
    down_pipe: Option<Pipe>,
    down: Option<SharedDown>,
    detached: bool,
}

/// See the module's documentation.
pub(in crate::domain) struct CallState {
    entry: Arc<Entry>,
    epoch: Instant,
    /// The facts of the call that runs, on the stack of its executor; only read during the call.
    facts: std::sync::atomic::AtomicPtr<Facts<'static>>,
    used: AtomicU8,
    /// In milliseconds since `epoch`; 0: not computed yet, [`NO_DEADLINE`]: none.
    deadline_ms: AtomicU64,
    has_inner: AtomicBool,
    up: Mutex<Option<Up>>,
    inner: Mutex<Inner>,
}

const NO_DEADLINE: u64 = u64::MAX;

impl CallState {
    /// The state of the calling thread's executor.
    pub(in crate::domain) fn new() -> Arc<Self> {
        Arc::new(Self {
            entry: Entry::register(),
            epoch: Instant::now(),
            facts: std::sync::atomic::AtomicPtr::new(std::ptr::null_mut()),
            used: AtomicU8::new(Used::Whole as u8),
            deadline_ms: AtomicU64::new(0),
            has_inner: AtomicBool::new(false),
            up: Mutex::new(None),
            inner: Mutex::default(),
        })
    }

    /// The thread ends.
    pub(in crate::domain) fn retire(&self) {
        self.entry.unregister();
    }

    /// Runs `call`, which is the call that `facts` are about.
    pub(in crate::domain) fn during<T>(&self, facts: &mut Facts<'_>, call: impl FnOnce() -> T) -> T {
        self.entry.begin(facts.key);
        self.used.store(Used::Whole as u8, Ordering::Relaxed);
        self.deadline_ms.store(0, Ordering::Relaxed);
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

    /// After [`CallState::during`]: how the answer was used. It is ended if the handler `returned`.
    pub(in crate::domain) fn finish(&self, returned: bool) -> Used {
        if !self.has_inner.swap(false, Ordering::Relaxed) {
            return Used::Whole;
        }
        if let Some(up) = unpoisoned(&self.up).take() {
            up.reader.pipe().leave(libc::ECANCELED);
        }
        let Inner { running, down, detached, .. } = std::mem::take(&mut *unpoisoned(&self.inner));
        let Some(down) = down else { return Used::Whole };
        if detached {
            return Used::Detached;
        }
        // Also waits for a thread that writes still, against the rules: its bytes must not meet the next user of the memory.
        let mut down = unpoisoned(&down);
        match running {
            Some(Running { uplink }) if returned => down.end(&*uplink),
            _ => down.writer.abandon(),
        }
        Used::Streamed
    }

    /// Whether the call that runs has begun its answer.
    pub(in crate::domain) fn is_streamed(&self) -> bool {
        self.used.load(Ordering::Relaxed) != Used::Whole as u8
    }

    fn facts(&self) -> Option<&Facts<'static>> {
        // SAFETY: set by `during` for as long as the call runs, within which alone a module may ask for its call.
        unsafe { self.facts.load(Ordering::Acquire).as_ref() }
    }

    /// Milliseconds since the epoch.
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
                .or_else(|| Some(super::handler_timeout_ms()).filter(|limit| *limit > 0 && !self.has_body_stream()));
            let asked = asked_ms(facts.view);
            let Some(limit) = limit.into_iter().chain(asked).min() else { return NO_DEADLINE };
            let start = u64::try_from(facts.start.saturating_duration_since(self.epoch).as_millis()).unwrap_or(0);
            start.saturating_add(limit).max(1)
        });
        self.deadline_ms.store(deadline, Ordering::Relaxed);
        deadline
    }

    fn has_body_stream(&self) -> bool {
        // Not while another thread reads: then it has one.
        self.up.try_lock().map_or(true, |up| up.is_some())
    }

    /// How long to wait at most; `None`: the deadline has passed.
    fn patience(&self) -> Option<Duration> {
        let deadline = self.deadline_ms();
        if deadline == NO_DEADLINE {
            return Some(WAIT_MAX);
        }
        let left = deadline.checked_sub(self.now_ms()).filter(|left| *left > 0)?;
        Some(Duration::from_millis(left).min(WAIT_MAX))
    }

    /// Waits until the body has bytes: how many, 0 at its end.
    fn await_body(&self, up: &mut Up) -> Result<usize, i32> {
        loop {
            match up.reader.peek(up.released) {
                Ok(Peek::Bytes(count)) => return Ok(count),
                Ok(Peek::Ended) => return Ok(0),
                Ok(Peek::Failed(errno)) => return Err(errno),
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

    /// Gives what was taken of the body back.
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

    /// Begins the answer, which the thread `borrowed` is going to send.
    fn begin_in(
        &self,
        inner: &mut Inner,
        status: u16,
        headers: &[(&[u8], &[u8])],
        borrowed: Option<BorrowedThread>,
    ) -> Result<SharedDown, i32> {
        let facts = self.facts().ok_or(libc::EPERM)?;
        let (slot, pipe, left) = self.begin_pipe(inner, facts, status, headers)?;
        let uplink = facts.uplink.share();
        let writer = Writer::new(pipe, Copying::Mapped);
        let down = Down { slot, writer, left, borrowed, uplink: Arc::clone(&uplink) };
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
        let length = declared_length(headers)?;
        let (slot, pipe) = match inner.down_pipe.take() {
            Some(pipe) => (None, pipe),
            None => {
                let (slot, pipe) = facts.uplink.take_slot().ok_or(libc::EBUSY)?;
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

/// What the client asks for: milliseconds.
fn asked_ms(view: &RequestView<'_>) -> Option<u64> {
    let number = |name: &str| -> Option<u64> { std::str::from_utf8(view.header(name)?).ok()?.trim().parse().ok() };
    let precise = number("x-request-timeout-ms");
    let coarse = number("request-timeout").map(|seconds| seconds.saturating_mul(1000));
    precise.into_iter().chain(coarse).min()
}

/// The `Content-Length` that a handler has set.
fn declared_length(headers: &[(&[u8], &[u8])]) -> Result<Option<u64>, i32> {
    let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(b"content-length"));
    let Some((_, value)) = found else { return Ok(None) };
    let digits = value.trim_ascii();
    let number = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    number.and_then(|text| text.parse().ok()).map(Some).ok_or(libc::EINVAL)
}

impl StreamCall for CallState {
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
            // SAFETY: `room` is writable memory of so many bytes.
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
        self.begin_in(&mut inner, status, headers, borrowed).map(drop)
    }

    fn write(&self, bytes: &[u8]) -> Result<(), i32> {
        let (down, uplink) = self.down()?;
        let mut down = unpoisoned(&down);
        down.check_length(bytes.len())?;
        let mut rest = bytes;
        loop {
            let count = down.writer.put(rest).map_err(errno_of)?;
            down.count(count);
            rest = rest.get(count..).unwrap_or_default();
            if count > 0 && down.writer.take_reader() {
                uplink.notice(false);
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

    fn detach(&self, status: u16, headers: &[(&[u8], &[u8])]) -> Result<u64, i32> {
        let mut inner = unpoisoned(&self.inner);
        if inner.detached {
            return Err(libc::EALREADY);
        }
        let down = match inner.down.clone() {
            // The call's own slot is another call's when this one has returned.
            Some(down) if unpoisoned(&down).slot.is_none() => return Err(libc::EINVAL),
            Some(down) => down,
            None => {
                // Not the call's own slot, of which there are few.
                let own = inner.down_pipe.take();
                // Nor a borrowed thread, however many are: the handler is about to give its own back.
                let begun = self.begin_in(&mut inner, status, headers, None);
                if begun.is_err() {
                    inner.down_pipe = own;
                }
                begun?
            }
        };
        let uplink = inner.running.as_ref().map(|running| Arc::clone(&running.uplink)).ok_or(libc::EINVAL)?;
        unpoisoned(&down).give_thread_back();
        inner.detached = true;
        self.used.store(Used::Detached as u8, Ordering::Relaxed);
        Ok(detached::add(Detached::new(down, uplink)))
    }
}
