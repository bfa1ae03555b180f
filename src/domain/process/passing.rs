//! Passes open files from a domain to a shard: descriptors over a socket beside the rings (`SCM_RIGHTS` in unix(7)).
//!
//! A descriptor is sent before the first record that names it. Both sides keep the same few files open, in the same order,
//! so that a frequently requested file is passed once. Each message contains the file's number, whether it is kept, and its
//! descriptor.

use crate::abi::files::OpenFile;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Limit on the files of each domain's process that a shard keeps open.
const KEPT_MAX: usize = 32;

/// The bytes of a message: the file's number, and whether it is kept.
const MESSAGE_BYTES: usize = 9;

/// Limit on the messages that a shard reads to find one descriptor; more than a socket holds.
const MESSAGES_MAX: usize = 4096;

/// The two ends, the server's first.
pub(super) fn pair() -> std::io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// The numbers of the kept files, the oldest first.
#[derive(Debug, Default)]
struct Order(VecDeque<u64>);

impl Order {
    /// Adds a file; returns the file that is not kept any more.
    fn add(&mut self, file: u64) -> Option<u64> {
        self.0.push_back(file);
        if self.0.len() > KEPT_MAX { self.0.pop_front() } else { None }
    }
}

/// A domain's side.
#[derive(Debug)]
pub(super) struct Sender {
    socket: OwnedFd,
    kept: Order,
}

impl Sender {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, kept: Order::default() }
    }

    /// Ensures that the shard has `file` when it reads the next record that names it. Waits while the socket is full.
    ///
    /// # Errors
    /// Errors of sendmsg(2).
    pub(super) fn pass(&mut self, file: &OpenFile) -> Result<(), Errno> {
        if file.is_kept() && self.kept.0.contains(&file.id()) {
            return Ok(());
        }
        let mut message = [0; MESSAGE_BYTES];
        message[..8].copy_from_slice(&file.id().to_le_bytes());
        message[8] = u8::from(file.is_kept());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [file.descriptor().as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        loop {
            match sendmsg(&self.socket, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
                Ok(_) => break,
            }
        }
        if file.is_kept() {
            self.kept.add(file.id());
        }
        Ok(())
    }
}

/// A shard's side.
#[derive(Debug)]
pub(super) struct Receiver {
    socket: OwnedFd,
    kept: Order,
    /// `None`: this process had no descriptor left for the file.
    files: Vec<(u64, Option<Arc<OwnedFd>>)>,
}

impl Receiver {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, kept: Order::default(), files: Vec::new() }
    }

    /// The open file that a record names; `None` if this process had no descriptor left for it.
    ///
    /// # Errors
    /// The file is missing, or is not one that a domain may send: a description of the error.
    pub(super) fn find(&mut self, file: u64) -> Result<Option<Arc<OwnedFd>>, &'static str> {
        if let Some((_, known)) = self.files.iter().find(|(number, _)| *number == file) {
            return Ok(known.clone());
        }
        for _ in 0..MESSAGES_MAX {
            let (number, is_kept, descriptor) = self.receive()?;
            let descriptor = descriptor.map(Arc::new);
            if is_kept {
                self.files.push((number, descriptor.clone()));
                if let Some(gone) = self.kept.add(number) {
                    self.files.retain(|(known, _)| *known != gone);
                }
            }
            if number == file {
                return Ok(descriptor);
            }
        }
        Err("an answer with a file came without the file")
    }

    fn receive(&self) -> Result<(u64, bool, Option<OwnedFd>), &'static str> {
        let mut message = [0; MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut message)], &mut control, flags);
        let received = received.map_err(|_| "an answer with a file came without the file")?;
        let is_whole = received.bytes == MESSAGE_BYTES && !received.flags.contains(ReturnFlags::TRUNC);
        // The kernel leaves descriptors out if `space` has no room, or if this process has no number left.
        let left_out = received.flags.contains(ReturnFlags::CTRUNC);
        let descriptors = control.drain().filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        // The padding after one descriptor has room for another.
        let mut descriptors = descriptors.flatten();
        let (first, second) = (descriptors.next(), descriptors.next());
        let descriptor = match (first, second, left_out) {
            (Some(descriptor), None, false) if is_whole => Some(descriptor),
            (None, None, true) if is_whole => None,
            _ => return Err("a file was passed in a wrong way"),
        };
        descriptor.as_ref().map_or(Ok(()), check)?;
        let number = message.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
        Ok((number, message[8] != 0, descriptor))
    }
}

/// A shard must not block on what it sends, so only regular files that are read through the kernel's cache are accepted.
fn check(descriptor: &OwnedFd) -> Result<(), &'static str> {
    let is_regular = fstat(descriptor).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    let flags = fcntl_getfl(descriptor).unwrap_or(OFlags::DIRECT);
    let is_readable = (flags & OFlags::ACCMODE) != OFlags::WRONLY && !flags.intersects(OFlags::DIRECT | OFlags::PATH);
    if is_regular && is_readable { Ok(()) } else { Err("the passed descriptor is not a readable regular file") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[&OwnedFd]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    }

    fn message(number: u64, is_kept: bool) -> Vec<u8> {
        [&number.to_le_bytes()[..], &[u8::from(is_kept)]].concat()
    }

    fn file() -> OwnedFd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"text").unwrap();
        file.into()
    }

    #[test]
    fn files_are_found_by_their_number_and_a_few_are_kept() {
        let (ours, theirs) = pair().unwrap();
        let mut receiver = Receiver::new(ours);
        for number in 0..KEPT_MAX as u64 {
            send(&theirs, &message(number, true), &[&file()]);
        }
        assert!(receiver.find(KEPT_MAX as u64 - 1).unwrap().is_some());
        assert!(receiver.find(0).is_ok());
        send(&theirs, &message(1000, false), &[&file()]);
        assert!(receiver.find(1000).is_ok());
        assert!(receiver.find(1000).is_err(), "the file was for one answer");
        send(&theirs, &message(1001, true), &[&file()]);
        assert!(receiver.find(1001).is_ok());
        assert!(receiver.find(0).is_err(), "the oldest file is not kept any more");
        assert!(receiver.find(1).is_ok());
        assert_eq!(receiver.files.len(), KEPT_MAX);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let (ours, theirs) = pair().unwrap();
        let mut receiver = Receiver::new(ours);
        assert!(receiver.find(1).is_err(), "nothing was sent");
        let (socket, _other) = pair().unwrap();
        let directory: OwnedFd = File::open("/").unwrap().into();
        let only_written: OwnedFd = File::create(tempfile::NamedTempFile::new().unwrap().path()).unwrap().into();
        let device: OwnedFd = File::open("/dev/null").unwrap().into();
        for wrong in [&socket, &directory, &only_written, &device] {
            send(&theirs, &message(1, true), &[wrong]);
            assert!(receiver.find(1).is_err());
        }
        for (bytes, descriptors) in [
            (message(1, true), &[][..]),
            (message(1, true), &[&file(), &file()]),
            (vec![1], &[&file()]),
            (vec![1; 100], &[&file()]),
        ] {
            send(&theirs, &bytes, descriptors);
            assert!(receiver.find(1).is_err(), "{bytes:?}");
        }
        assert!(receiver.files.is_empty());
    }
}
