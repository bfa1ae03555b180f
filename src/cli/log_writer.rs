//! Writes the server's log without waiting for its reader.
//!
//! The log may be a pipe whose reader has stopped: a blocked log driver, a terminal after Ctrl-S. A shard that waited there
//! would serve no requests. A line is therefore written directly if the write can't block. Other lines go through a bounded
//! queue to a thread that may block; when the queue is full, lines are lost and counted. Lines keep their order.

use crossbeam::channel::{Receiver, Sender, unbounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// Limit, in bytes, on the lines in the queue and their places there.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// `PIPE_BUF` of pipe(7): the room that poll(2) guarantees.
const AT_ONCE_BYTES_MAX: usize = 4096;
/// Limit on the wait for the queue at exit.
const EXIT_WAIT: Duration = Duration::from_millis(500);

/// The writer of the log.
pub(super) struct LogWriter {
    file: File,
    /// A regular file accepts every line at once; poll(2) does not apply to it.
    is_regular: bool,
    /// For a terminal, all lines go through the queue: poll(2) guarantees room for a byte, but not for a line.
    is_terminal: bool,
    /// Held while a line is written: otherwise two threads could both rely on the same room.
    at_once: Mutex<()>,
    queue: Sender<Vec<u8>>,
    /// The bytes of lines that are in the queue or that the thread is writing.
    waiting_bytes: AtomicUsize,
    lost: AtomicUsize,
}

/// The bytes of a line in the queue: its text and its place.
fn queued_bytes(line: &[u8]) -> usize {
    line.len() + size_of::<Vec<u8>>()
}

/// The log of the process, for [`flush`].
static LOG: OnceLock<Arc<LogWriter>> = OnceLock::new();

impl LogWriter {
    /// Makes the writer of the log to `file`; `None`: to standard error.
    pub(super) fn start(file: Option<File>) -> BoxMakeWriter {
        let Some(file) = file else { return BoxMakeWriter::new(io::stderr) };
        let is_regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        let is_terminal = file.is_terminal();
        let (queue, lines) = unbounded();
        let (waiting_bytes, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let writer =
            Arc::new(Self { file, is_regular, is_terminal, at_once: Mutex::new(()), queue, waiting_bytes, lost });
        let own = Arc::clone(&writer);
        if thread::Builder::new().name("log".to_owned()).spawn(move || own.write_waiting(&lines)).is_err() {
            return BoxMakeWriter::new(io::stderr);
        }
        let _ = LOG.set(Arc::clone(&writer));
        BoxMakeWriter::new(writer)
    }

    /// Whether `bytes` can be written without blocking.
    fn takes_at_once(&self, bytes: usize) -> bool {
        if self.is_regular {
            return true;
        }
        if self.is_terminal {
            return false;
        }
        let mut polled = [PollFd::new(&self.file, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // If the reader has gone, poll returns at once with an error.
        bytes <= AT_ONCE_BYTES_MAX && poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Queues `line`, or counts it as lost.
    fn enqueue(&self, line: &[u8]) {
        let bytes = queued_bytes(line);
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::AcqRel);
        let fits = waiting + bytes <= WAITING_BYTES_MAX;
        if !fits || self.queue.try_send(line.to_vec()).is_err() {
            self.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes `line`, and blocks if necessary. A failed write must not end the server.
    fn write_whole(&self, line: &[u8]) {
        let _at_once = self.at_once.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = line;
        while !rest.is_empty() {
            match (&self.file).write(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                // Another process has made the pipe non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn write_waiting(&self, lines: &Receiver<Vec<u8>>) {
        while let Ok(line) = lines.recv() {
            let bytes = queued_bytes(&line);
            let lost = if lines.is_empty() { self.lost.swap(0, Ordering::Relaxed) } else { 0 };
            self.write_whole(&line);
            if lost > 0 {
                self.write_whole(format!("{lost} lines of the log are lost: its reader was too slow\n").as_bytes());
            }
            self.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
        }
    }
}

impl Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.waiting_bytes.load(Ordering::Acquire) == 0
            && let Ok(_at_once) = self.at_once.try_lock()
            && self.takes_at_once(line.len())
        {
            return (&self.file).write(line);
        }
        if self.is_regular {
            return (&self.file).write(line);
        }
        self.enqueue(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// At the end of the process, waits a short time for the queue.
pub(super) fn flush() {
    let deadline = Instant::now() + EXIT_WAIT;
    let waits = || LOG.get().is_some_and(|log| log.waiting_bytes.load(Ordering::Acquire) > 0);
    while waits() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    #[test]
    fn a_reader_that_has_stopped_holds_up_nobody_and_gets_the_lines_in_order() {
        let (reader, writer) = io::pipe().unwrap();
        let (queue, lines) = unbounded();
        let log = Arc::new(LogWriter {
            file: File::from(OwnedFd::from(writer)),
            is_regular: false,
            is_terminal: false,
            at_once: Mutex::new(()),
            queue,
            waiting_bytes: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
        });
        let own = Arc::clone(&log);
        thread::spawn(move || own.write_waiting(&lines));
        // More lines than the pipe and the queue hold.
        let text = |number: usize| format!("{number:0>1023}\n");
        for number in 0..6000 {
            (&*log).write_all(text(number).as_bytes()).unwrap();
        }
        let lost = log.lost.load(Ordering::Relaxed);
        assert!((1..2000).contains(&lost), "{lost}");
        let mut file = reader;
        let mut all = Vec::new();
        let mut buffer = vec![0; 65536];
        while !all.ends_with(b"its reader was too slow\n") {
            let count = file.read(&mut buffer).unwrap();
            all.extend_from_slice(&buffer[..count]);
        }
        let all = String::from_utf8(all).unwrap();
        let (told, kept): (Vec<&str>, Vec<&str>) = all.lines().partition(|line| line.contains("lost"));
        assert_eq!(told, [format!("{lost} lines of the log are lost: its reader was too slow")]);
        assert_eq!(kept.len(), 6000 - lost);
        assert!(kept.iter().enumerate().all(|(number, line)| **line == *text(number).trim_end()));
        drop(file);
        // The reader has gone: the write fails and does not wait.
        assert!((&*log).write(b"x").is_err());
    }
}
