//! Sends messages to a process over the control connection.
//!
//! The sender never waits: a thread, which exists while messages wait, writes what the connection does not take at once.
//! The server closes the connection if the process does not take its messages in time, or if it asks without limit and
//! takes no answers. The end of the connection ends the process.

use super::lock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Limit on the time in which a process must take a message, from its sending.
const WRITE_WAIT: Duration = Duration::from_secs(10);
/// The speed at which the process must take large messages beyond that, in bytes per second.
const BYTES_PER_SECOND_MIN: usize = 8 << 20;
/// Limit on the waiting answers. A thread of a module waits for the answer to one question before it asks another.
const REPLIES_MAX: usize = 4096;
/// Limit on the waiting bytes when another answer comes.
const REPLIES_BYTES_MAX: usize = 64 << 20;

/// The writer of one process.
pub(super) struct ControlWriter {
    queue: Arc<OutboundQueue>,
}

struct OutboundQueue {
    stream: UnixStream,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    frames: VecDeque<OutboundFrame>,
    bytes: usize,
    replies: usize,
    /// Whether a thread is writing.
    writing: bool,
    /// Whether sending is over.
    closed: bool,
    /// The reason of the end, if it is the process's fault and not its death.
    verdict: Option<&'static str>,
}

struct OutboundFrame {
    bytes: Vec<u8>,
    /// The number of written bytes.
    sent: usize,
    reply: bool,
    deadline: Instant,
}

/// The reason why a message could not be sent.
enum Unsent {
    /// The connection is closed, or the writing thread can't be started.
    Error(io::Error),
    /// The process does not take the message.
    Refused(&'static str),
}

impl From<io::Error> for Unsent {
    fn from(error: io::Error) -> Self {
        Self::Error(error)
    }
}

impl ControlWriter {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { queue: Arc::new(OutboundQueue { stream, waiting: Mutex::default() }) }
    }

    /// Sends a message, encoded by [`control::encode`](super::control::encode). `reply`: the message answers a question.
    ///
    /// # Errors
    /// The process takes no messages any more.
    pub(super) fn send(&self, bytes: Vec<u8>, reply: bool) -> io::Result<()> {
        let mut waiting = lock(&self.queue.waiting);
        if waiting.closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let mut frame = OutboundFrame { bytes, sent: 0, reply, deadline: Instant::now() };
        if waiting.frames.is_empty() && !waiting.writing {
            match self.queue.write(&mut frame) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Err(self.queue.fail(&mut waiting, Unsent::Error(error))),
            }
        }
        if reply && (waiting.replies >= REPLIES_MAX || waiting.bytes > REPLIES_BYTES_MAX) {
            return Err(self.queue.fail(&mut waiting, Unsent::Refused("it asks without limit, and takes no answers")));
        }
        waiting.replies += usize::from(reply);
        waiting.bytes += frame.bytes.len();
        frame.deadline += WRITE_WAIT + Duration::from_secs((waiting.bytes / BYTES_PER_SECOND_MIN) as u64);
        waiting.frames.push_back(frame);
        if !std::mem::replace(&mut waiting.writing, true) {
            let queue = Arc::clone(&self.queue);
            let writer = thread::Builder::new().name("domain-writer".to_owned()).spawn(move || queue.write_all());
            if let Err(error) = writer {
                return Err(self.queue.fail(&mut waiting, Unsent::Error(error)));
            }
        }
        Ok(())
    }

    /// Closes the connection.
    pub(super) fn close(&self) {
        let _ = self.queue.stream.shutdown(Shutdown::Both);
    }

    /// Closes the sending side: the process ends by itself, and the server still reads its messages.
    pub(super) fn finish(&self) {
        let _ = self.queue.stream.shutdown(Shutdown::Write);
    }

    /// The reason why the connection was closed, if the process did not take its messages.
    pub(super) fn verdict(&self) -> Option<&'static str> {
        lock(&self.queue.waiting).verdict
    }
}

impl OutboundQueue {
    /// Writes as much as the connection takes now. Returns true if the frame is complete.
    fn write(&self, frame: &mut OutboundFrame) -> io::Result<bool> {
        while let Some(rest) = frame.bytes.get(frame.sent..).filter(|rest| !rest.is_empty()) {
            match send(&self.stream, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => frame.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Writes until no frame waits.
    fn write_all(&self) {
        loop {
            let mut waiting = lock(&self.waiting);
            let Some(mut frame) = waiting.frames.pop_front().filter(|_| !waiting.closed) else {
                waiting.frames.clear();
                waiting.writing = false;
                return;
            };
            drop(waiting);
            let written = self.write_in_time(&mut frame);
            let mut waiting = lock(&self.waiting);
            waiting.bytes -= frame.bytes.len();
            waiting.replies -= usize::from(frame.reply);
            if let Err(unsent) = written {
                self.fail(&mut waiting, unsent);
            }
        }
    }

    fn write_in_time(&self, frame: &mut OutboundFrame) -> Result<(), Unsent> {
        while !self.write(frame)? {
            let left = frame.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Unsent::Refused("it does not take the server's messages"));
            }
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.stream, PollFlags::OUT)], Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    fn fail(&self, waiting: &mut Waiting, unsent: Unsent) -> io::Error {
        waiting.closed = true;
        // The control reader finds the end.
        let _ = self.stream.shutdown(Shutdown::Both);
        match unsent {
            Unsent::Error(error) => error,
            Unsent::Refused(why) => {
                waiting.verdict.get_or_insert(why);
                io::Error::other(why)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn who_sends_does_not_wait_and_all_comes_in_order() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let control_writer = ControlWriter::new(ours);
        for n in 0..100_u8 {
            control_writer.send(vec![n; 100_000], true).unwrap();
        }
        let mut all = vec![0; 100 * 100_000];
        theirs.read_exact(&mut all).unwrap();
        assert!(all.chunks(100_000).zip(0_u8..).all(|(chunk, n)| chunk.iter().all(|&byte| byte == n)));
        control_writer.send(vec![7], true).unwrap();
        theirs.read_exact(&mut all[..1]).unwrap();
        assert_eq!((all[0], control_writer.verdict()), (7, None));
        drop(theirs);
        assert!(
            control_writer.send(vec![7], true).is_err() && control_writer.verdict().is_none(),
            "the death of a process is not its fault"
        );
    }

    #[test]
    fn who_asks_and_takes_no_answers_is_hung_up_on() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let control_writer = ControlWriter::new(ours);
        let sent = (0..1_000_000).take_while(|_| control_writer.send(vec![0; 1000], true).is_ok()).count();
        assert!((REPLIES_MAX..=3 * REPLIES_MAX).contains(&sent), "{sent}");
        assert!(control_writer.verdict().is_some() && control_writer.send(vec![0], false).is_err());
        drop(theirs);
    }
}
