//! Reads messages of a domain's process from the control connection, as hostile input. Memory grows with the received bytes
//! and not with the announced length; a message has limits on its size and its duration. The reader ends when the process
//! ends, even if another process holds the other end of the connection by then.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{RecvFlags, recv};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Limit on the time from the first to the last byte of a message.
const MESSAGE_WAIT: Duration = Duration::from_secs(30);
/// The number of bytes received at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// The reader of one process.
pub(super) struct ControlReader {
    stream: UnixStream,
    /// Readable when the process has ended; `None` where the kernel has no such descriptors.
    process: Option<OwnedFd>,
    bytes_max: usize,
    /// After the end of the process: the number of bytes that may still be its own.
    last_words: Option<u64>,
}

impl ControlReader {
    /// A reader for process `pid`, a child that is not reaped yet, over `stream`. Messages may have `bytes_max` bytes.
    pub(super) fn new(stream: UnixStream, pid: u32, bytes_max: usize) -> Self {
        let pid = Pid::from_raw(pid.cast_signed());
        let process = pid.and_then(|pid| {
            let opened = pidfd_open(pid, PidfdFlags::empty());
            opened.inspect_err(|error| tracing::debug!("the end of a process can't be waited for: {error}")).ok()
        });
        Self { stream, process, bytes_max, last_words: None }
    }

    /// The next message.
    ///
    /// # Errors
    /// `UnexpectedEof`: the process or the connection has ended. Others: the received bytes are not a message.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        // Checked even if there is always something to receive, since that may come from another process.
        self.wait(Some(Instant::now()))?;
        let mut head = [0; 4];
        let mut have = self.receive(&mut head, None)?;
        let deadline = Some(Instant::now() + MESSAGE_WAIT);
        while have < head.len() {
            have += self.receive(head.get_mut(have..).unwrap_or_default(), deadline)?;
        }
        let length = u32::from_le_bytes(head) as usize;
        if length > self.bytes_max {
            return Err(io::Error::other(format!("a message of {length} bytes")));
        }
        let mut message = Vec::new();
        let mut piece = vec![0; PIECE_BYTES.min(length)];
        while message.len() < length {
            let room = PIECE_BYTES.min(length - message.len());
            let received = self.receive(piece.get_mut(..room).unwrap_or_default(), deadline)?;
            message.extend_from_slice(piece.get(..received).unwrap_or_default());
        }
        Ok(serde_json::from_slice(&message)?)
    }

    /// Waits until there is something to receive, or the process has ended, but not beyond `deadline`.
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        if self.last_words.is_some() {
            return Ok(());
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut polled = vec![PollFd::new(&self.stream, PollFlags::IN)];
        polled.extend(self.process.iter().map(|process| PollFd::new(process, PollFlags::IN)));
        match poll(&mut polled, left.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if polled.get(1).is_some_and(|process| process.revents().contains(PollFlags::IN)) {
            self.last_words = Some(ioctl_fionread(&self.stream)?);
        }
        Ok(())
    }

    /// Receives bytes as long as the process lives.
    fn receive(&mut self, into: &mut [u8], deadline: Option<Instant>) -> io::Result<usize> {
        loop {
            let room = match self.last_words {
                Some(left) => into.len().min(usize::try_from(left).unwrap_or(usize::MAX)),
                None => into.len(),
            };
            let into = into.get_mut(..room).unwrap_or_default();
            if into.is_empty() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            match recv(&self.stream, into, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok((count, _)) => {
                    self.last_words = self.last_words.map(|left| left.saturating_sub(count as u64));
                    return Ok(count);
                }
                Err(Errno::AGAIN) if self.last_words.is_some() => return Err(ErrorKind::UnexpectedEof.into()),
                Err(Errno::AGAIN) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    return Err(io::Error::other("a message that is not complete in time"));
                }
                Err(Errno::AGAIN) => self.wait(deadline)?,
                Err(Errno::INTR) => {}
                // The process died with unread bytes.
                Err(Errno::CONNRESET) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::process::control::{self, Outcome, ToParent};
    use std::process::{Child, Command};

    fn process() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    #[test]
    fn a_process_has_ended_when_it_has_whoever_has_its_connection() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut child = process();
        let mut control_reader = ControlReader::new(ours, child.id(), 1000);
        let say = |theirs: &mut UnixStream| {
            control::write(theirs, &ToParent::Done { call: 7, outcome: Outcome::Done }).unwrap();
        };
        say(&mut theirs);
        assert!(matches!(control_reader.next(), Ok(ToParent::Done { call: 7, .. })));
        say(&mut theirs);
        child.kill().unwrap();
        // The process is not reaped: it is a zombie and still owns its id.
        assert!(
            matches!(control_reader.next(), Ok(ToParent::Done { call: 7, .. })),
            "messages from before the end are read"
        );
        while control_reader.last_words.is_none() {
            control_reader.wait(None).unwrap();
        }
        say(&mut theirs);
        let heard = control_reader.next::<ToParent>().map(|_| ()).map_err(|error| error.kind());
        assert_eq!(heard, Err(ErrorKind::UnexpectedEof), "messages of other processes are not read");
        child.wait().unwrap();
    }

    #[test]
    fn a_message_has_a_largest_size_and_no_memory_before_it_comes() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut child = process();
        let mut control_reader = ControlReader::new(ours, child.id(), 1000);
        io::Write::write_all(&mut theirs, &1001_u32.to_le_bytes()).unwrap();
        assert_eq!(control_reader.next::<ToParent>().unwrap_err().to_string(), "a message of 1001 bytes");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
