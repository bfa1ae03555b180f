//! The last log lines of each module, for `cweb logs`: the module's own output, and the server's messages about the module.
//!
//! Any thread adds lines. A reader keeps the number of the last line that it has read, and requests the following lines. A full
//! buffer drops its oldest lines, so neither a module with much output nor a slow reader blocks another thread. A reader gets
//! the number of the lines that the buffer dropped before the reader could read them. Lock order: a thread holds the lock for
//! one line or one batch, and calls nothing under the lock except [`Watcher::wake`].

use crossbeam::queue::ArrayQueue;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Limit on the modules with lines; beyond this limit the lines of the module with the oldest last line are dropped.
const MODULES_MAX: usize = 1_000;
/// Memory of a line beside its text, in bytes.
const LINE_OVERHEAD: usize = 64;
/// Limit, in bytes, on the lines of a module, unless [`set_limit`] sets another limit.
const BYTES_MAX: usize = 256 * 1024;

/// The kind of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The module printed the line.
    Printed,
    /// A message of the server about the module.
    Info,
    /// A warning of the server about the module.
    Warning,
    /// A failure of the module.
    Error,
    /// A request to the module, for readers that ask for requests.
    Request,
}

impl Kind {
    /// The kind's name in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Printed => "printed",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Request => "request",
        }
    }
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The line's number: larger than the numbers of the module's earlier lines, also of those before a restart of the server.
    pub id: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The kind of the line.
    pub kind: Kind,
    /// The text of the line.
    pub text: String,
}

/// Lines that follow each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The lines, oldest first.
    pub lines: Vec<Arc<Line>>,
    /// Number of lines before `lines` that the buffer dropped before the reader read them.
    pub lost: u64,
    /// The number for the next request.
    pub last: u64,
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct From {
    /// The number of the last line that the reader has read.
    pub after: Option<u64>,
    /// Limit on the number of lines.
    pub lines: Option<usize>,
    /// Only lines of this time or later, in milliseconds since 1970.
    pub since_ms: u64,
    /// Whether the reader also wants lines about requests. Such lines are written only while such a reader exists.
    pub requests: bool,
}

impl From {
    /// Whether the reader wants `line`.
    #[must_use]
    pub fn wants(&self, line: &Line) -> bool {
        self.requests || line.kind != Kind::Request
    }
}

/// Waits for new lines.
pub trait Watcher: Send + Sync {
    /// Reports new lines. Must return at once, because the caller holds the lock of the book.
    fn wake(&self);
}

struct Buffer {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
    /// The number of the buffer's first line ever, and of its next line.
    first: u64,
    next: u64,
    /// Readers by their keys.
    watchers: Vec<(u64, Arc<dyn Watcher>)>,
    /// Keys of the readers that want lines about requests.
    tracers: Vec<u64>,
    requests: RequestQuota,
}

/// Limits the lines about requests of a module.
#[derive(Default)]
struct RequestQuota {
    second: u64,
    written: u32,
    left_out: u64,
}

/// Limit on the lines about requests of a module in a second; further requests are only counted.
const REQUEST_LINES_MAX: u32 = 200;

/// Readers of all modules that want lines about requests.
static TRACERS: AtomicUsize = AtomicUsize::new(0);

struct Book {
    buffers: HashMap<String, Buffer>,
    /// The deployed modules: a message of the server that begins with one of these names is a line of that module.
    known: BTreeSet<String>,
    bytes_max: usize,
    next_watcher: u64,
}

static BOOK: LazyLock<Mutex<Book>> = LazyLock::new(|| {
    Mutex::new(Book { buffers: HashMap::new(), known: BTreeSet::new(), bytes_max: BYTES_MAX, next_watcher: 0 })
});

fn book() -> MutexGuard<'static, Book> {
    BOOK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The book, unless another thread holds its lock.
fn try_book() -> Option<MutexGuard<'static, Book>> {
    match BOOK.try_lock() {
        Ok(book) => Some(book),
        Err(TryLockError::Poisoned(book)) => Some(book.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Limit on the lines in [`LATE`]; further requests are only counted.
const LATE_MAX: usize = 1024;

/// Lines about requests that arrived while another thread held the book's lock: module and text.
static LATE: LazyLock<ArrayQueue<(String, String)>> = LazyLock::new(|| ArrayQueue::new(LATE_MAX));

/// Requests without a line, because [`LATE`] was full.
static MISSED: AtomicU64 = AtomicU64::new(0);

fn since_1970() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Buffer {
    fn new() -> Self {
        // The clock in microseconds: a restarted server does not repeat a number if a module has fewer than a million lines a
        // second.
        let first = u64::try_from(since_1970().as_micros()).unwrap_or_default();
        let (watchers, tracers, requests) = (Vec::new(), Vec::new(), RequestQuota::default());
        Self { lines: VecDeque::new(), bytes: 0, first, next: first, watchers, tracers, requests }
    }

    fn add(&mut self, kind: Kind, text: &str, bytes_max: usize) {
        let at_ms = u64::try_from(since_1970().as_millis()).unwrap_or_default();
        let line = Line { id: self.next, at_ms, kind, text: text.to_owned() };
        self.next += 1;
        self.bytes += line.text.len() + LINE_OVERHEAD;
        self.lines.push_back(Arc::new(line));
        while self.bytes > bytes_max {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.text.len() + LINE_OVERHEAD;
        }
        self.watchers.iter().for_each(|(_, watcher)| watcher.wake());
    }

    /// The number before that of the first line that `from` wants.
    fn begin(&self, from: From) -> u64 {
        if let Some(after) = from.after {
            return after;
        }
        let wanted = self.lines.iter().filter(|line| line.at_ms >= from.since_ms && from.wants(line));
        let skipped = wanted.clone().count().saturating_sub(from.lines.unwrap_or(usize::MAX));
        wanted.skip(skipped).map(|line| line.id).next().unwrap_or(self.next).saturating_sub(1)
    }

    fn after(&self, last: u64, lines_max: usize) -> Batch {
        // Lines from before this server or this buffer existed do not count as lost.
        let last = last.max(self.first.saturating_sub(1)).min(self.next.saturating_sub(1));
        let at = self.lines.partition_point(|line| line.id <= last);
        let lines: Vec<Arc<Line>> = self.lines.iter().skip(at).take(lines_max).map(Arc::clone).collect();
        // Without a line after `last`, the reader has read the newest line.
        let lost = lines.first().map_or(0, |line| line.id - 1 - last);
        let last = lines.last().map_or(last, |line| line.id);
        Batch { lines, lost, last }
    }
}

impl Book {
    /// Adds the lines of [`LATE`].
    fn add_late(&mut self) {
        // The loop is bounded, because other threads may add lines meanwhile.
        for _ in 0..LATE_MAX {
            let Some((module, text)) = LATE.pop() else { return };
            self.add_request(&module, &text);
        }
    }

    fn add_request(&mut self, module: &str, text: &str) {
        let bytes_max = self.bytes_max;
        let Some(buffer) = self.buffers.get_mut(module).filter(|buffer| !buffer.tracers.is_empty()) else { return };
        buffer.requests.left_out += MISSED.swap(0, Ordering::Relaxed);
        let second = since_1970().as_secs();
        if std::mem::replace(&mut buffer.requests.second, second) != second {
            buffer.requests.written = 0;
            let left_out = std::mem::take(&mut buffer.requests.left_out);
            if left_out > 0 {
                let text = format!(
                    "{left_out} further requests are not listed: a module has at most {REQUEST_LINES_MAX} lines a second"
                );
                buffer.add(Kind::Request, &text, bytes_max);
            }
        }
        if buffer.requests.written >= REQUEST_LINES_MAX {
            buffer.requests.left_out += 1;
            return;
        }
        buffer.requests.written += 1;
        buffer.add(Kind::Request, text, bytes_max);
    }

    fn buffer(&mut self, module: &str) -> &mut Buffer {
        if !self.buffers.contains_key(module) && self.buffers.len() >= MODULES_MAX {
            let silent = self.buffers.iter().filter(|(_, buffer)| buffer.watchers.is_empty());
            let oldest = silent.min_by_key(|(_, buffer)| buffer.lines.back().map_or(0, |line| line.at_ms));
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.buffers.remove(&name);
            }
        }
        self.buffers.entry(module.to_owned()).or_insert_with(Buffer::new)
    }
}

/// Limits the lines of each module to `bytes_max` bytes.
pub fn set_limit(bytes_max: usize) {
    book().bytes_max = bytes_max;
}

/// Adds a line to those of `module`.
pub fn add(module: &str, kind: Kind, text: &str) {
    let mut book = book();
    let bytes_max = book.bytes_max;
    book.buffer(module).add(kind, text, bytes_max);
}

/// Whether some reader wants lines about requests.
#[must_use]
pub fn is_traced() -> bool {
    // Relaxed: a request that begins at the same moment as the reader may be missing.
    TRACERS.load(Ordering::Relaxed) > 0
}

/// Adds a line about a request to `module`, if a reader of the module's lines wants requests. Never waits: if another thread
/// holds the book's lock, the next [`request`] or [`settle`] adds the line.
pub fn request(module: &str, text: &str) {
    let Some(mut book) = try_book() else {
        if LATE.push((module.to_owned(), text.to_owned())).is_err() {
            MISSED.fetch_add(1, Ordering::Relaxed);
        }
        return;
    };
    book.add_late();
    book.add_request(module, text);
}

/// Adds the lines in `LATE`, unless another thread holds the book's lock now.
pub fn settle() {
    if !LATE.is_empty()
        && let Some(mut book) = try_book()
    {
        book.add_late();
    }
}

/// The name of the buffer that reports deployments to the pages of a server in development. No module can have this name.
pub const DEPLOYMENTS: &str = "";

/// The number of the last reported deployment. From this call on deployments are reported.
#[must_use]
pub fn last_deployment() -> u64 {
    book().buffer(DEPLOYMENTS).next.saturating_sub(1)
}

/// Reports the deployment of `module` to the watchers of [`DEPLOYMENTS`].
pub fn deployed(module: &str) {
    let mut book = book();
    let bytes_max = book.bytes_max;
    if let Some(buffer) = book.buffers.get_mut(DEPLOYMENTS) {
        buffer.add(Kind::Info, module, bytes_max);
    }
}

/// Sets the names of the deployed modules: see [`told`].
pub fn set_known(names: impl Iterator<Item = String>) {
    book().known = names.collect();
}

/// Adds a line of the server's log to the lines of a module, if the line begins with `module NAME` of a deployed module.
pub fn told(kind: Kind, text: &str) {
    let Some(rest) = text.strip_prefix("module ") else { return };
    let mut book = book();
    if let Some(name) = about(rest, book.known.iter()).cloned() {
        let bytes_max = book.bytes_max;
        book.buffer(&name).add(kind, text, bytes_max);
    }
}

/// The longest of `names` that `text` begins with.
pub fn about<'a>(text: &str, names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let is_it = |name: &&String| {
        text.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ':', ',']))
    };
    names.filter(is_it).max_by_key(|name| name.len())
}

/// Whether `module` is deployed or has lines.
#[must_use]
pub fn has(module: &str) -> bool {
    let book = book();
    book.buffers.contains_key(module) || book.known.contains(module)
}

/// Drops the lines of `module`, unless the module has watchers.
pub fn forget(module: &str) {
    let mut book = book();
    // A watcher gets further lines if the module is deployed again.
    if book.buffers.get(module).is_some_and(|buffer| buffer.watchers.is_empty()) {
        book.buffers.remove(module);
    }
}

/// The lines of `module` that `from` wants.
#[must_use]
pub fn lines(module: &str, from: From) -> Batch {
    let book = book();
    let Some(buffer) = book.buffers.get(module) else { return Batch::default() };
    let mut batch = buffer.after(buffer.begin(from), usize::MAX);
    batch.lines.retain(|line| from.wants(line));
    batch
}

/// Registers `watcher` for new lines of `module`. Returns a key for [`unwatch`] and the number for the first request.
pub fn watch(module: &str, from: From, watcher: Arc<dyn Watcher>) -> (u64, u64) {
    let mut book = book();
    let key = book.next_watcher;
    book.next_watcher += 1;
    let buffer = book.buffer(module);
    buffer.watchers.push((key, watcher));
    if from.requests {
        buffer.tracers.push(key);
        TRACERS.fetch_add(1, Ordering::Relaxed);
    }
    (key, buffer.begin(from))
}

/// Removes the watcher that [`watch`] has registered.
pub fn unwatch(module: &str, key: u64) {
    let mut book = book();
    if let Some(buffer) = book.buffers.get_mut(module) {
        buffer.watchers.retain(|(known, _)| *known != key);
        let tracers = buffer.tracers.len();
        buffer.tracers.retain(|known| *known != key);
        TRACERS.fetch_sub(tracers - buffer.tracers.len(), Ordering::Relaxed);
        // The module was removed while it was watched.
        if buffer.watchers.is_empty() && !book.known.contains(module) && module != DEPLOYMENTS {
            book.buffers.remove(module);
        }
    }
}

/// At most `lines_max` lines of `module` after number `last`. `None`: another thread holds the book's lock; the caller must
/// ask again.
#[must_use]
pub fn after(module: &str, last: u64, lines_max: usize) -> Option<Batch> {
    let book = try_book()?;
    Some(book.buffers.get(module).map_or(Batch { last, ..Batch::default() }, |buffer| buffer.after(last, lines_max)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(batch: &Batch) -> Vec<&str> {
        batch.lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn a_full_buffer_forgets_its_oldest_lines_and_tells_how_many() {
        let mut buffer = Buffer::new();
        let begun = buffer.begin(From::default());
        for number in 0..10 {
            buffer.add(Kind::Printed, &number.to_string(), 4 * (LINE_OVERHEAD + 1));
        }
        let batch = buffer.after(begun, 3);
        assert_eq!((texts(&batch), batch.lost), (vec!["6", "7", "8"], 6));
        let rest = buffer.after(batch.last, 3);
        assert_eq!((texts(&rest), rest.lost), (vec!["9"], 0));
        let none = buffer.after(rest.last, 3);
        assert_eq!((none.lines.len(), none.lost, none.last), (0, 0, rest.last));
        // A number of an earlier server, and an invented number.
        assert_eq!(buffer.after(0, 9).lost, 6);
        assert_eq!(buffer.after(u64::MAX, 9).lines.len(), 0);
    }

    #[test]
    fn a_reader_begins_with_the_last_lines() {
        let mut buffer = Buffer::new();
        for number in 0..5 {
            buffer.add(Kind::Info, &number.to_string(), 10_000);
        }
        let from = |lines, since_ms| buffer.after(buffer.begin(From { lines, since_ms, ..From::default() }), 9);
        assert_eq!(texts(&from(Some(2), 0)), ["3", "4"]);
        assert_eq!(texts(&from(None, 0)).len(), 5);
        assert_eq!(texts(&from(Some(0), 0)).len(), 0);
        assert_eq!(texts(&from(None, u64::MAX)).len(), 0);
    }

    struct Nobody;

    impl Watcher for Nobody {
        fn wake(&self) {}
    }

    #[test]
    fn a_request_that_finds_the_book_taken_is_listed_later() {
        struct Silent;
        impl Watcher for Silent {
            fn wake(&self) {}
        }
        let from = From { requests: true, ..From::default() };
        let (watch, last) = super::watch("taken", from, Arc::new(Silent));
        let taken = book();
        std::thread::scope(|scope| scope.spawn(|| request("taken", "GET /late")).join()).unwrap();
        drop(taken);
        // Other tests use the book, too.
        while !LATE.is_empty() {
            settle();
        }
        let batch = std::iter::repeat_with(|| after("taken", last, 10)).flatten().next().unwrap();
        assert_eq!(texts(&batch), ["GET /late"]);
        unwatch("taken", watch);
    }

    #[test]
    fn requests_are_listed_for_those_who_ask_up_to_a_limit() {
        let name = "requests_are_listed";
        add(name, Kind::Printed, "printed");
        request(name, "nobody asks");
        let from = From { requests: true, ..From::default() };
        let (key, _) = watch(name, from, Arc::new(Nobody));
        assert!(is_traced());
        for number in 0..=REQUEST_LINES_MAX {
            request(name, &number.to_string());
        }
        let listed = lines(name, from);
        // The clock's second may have changed meanwhile.
        assert!(listed.lines.len() > 1 && listed.lines.len() <= REQUEST_LINES_MAX as usize + 3);
        assert_eq!(texts(&lines(name, From::default())), ["printed"]);
        assert_eq!(texts(&lines(name, From { lines: Some(1), ..From::default() })), ["printed"]);
        unwatch(name, key);
        // Nothing is left of a module that is not deployed.
        request(name, "no reader is left");
        assert!(lines(name, from).lines.is_empty());
    }

    #[test]
    fn a_line_is_about_the_module_with_the_longest_name() {
        let names = ["a".to_owned(), "a b".to_owned(), "abc".to_owned()];
        let found = |text: &str| about(text, names.iter()).map(String::as_str);
        assert_eq!(found("a failed in x"), Some("a"));
        assert_eq!(found("a b: text"), Some("a b"));
        assert_eq!(found("abc"), Some("abc"));
        assert_eq!(found("abcd is deployed"), None);
    }
}
