//! Passes open files from the server to a domain, for its running jobs: descriptors over a socket beside the control
//! connection (`SCM_RIGHTS` in unix(7)).
//!
//! A descriptor is sent before the answer to the question that asked for it, with the number of that question. The server
//! never waits: a process that does not take its files gets no further ones.

use super::lock;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

/// The bytes of a message: the question's number.
const MESSAGE_BYTES: usize = 8;

/// Sends the file for question number `call`.
///
/// # Errors
/// The process does not take it now.
pub(super) fn send(socket: &OwnedFd, call: u64, file: &OwnedFd) -> Result<(), Errno> {
    let message = call.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [file.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    loop {
        match sendmsg(socket, &[IoSlice::new(&message)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return sent.map(drop),
        }
    }
}

/// The domain's side.
pub(super) struct HandedFiles {
    socket: OwnedFd,
    /// Files that a thread received while it looked for its own, by question number.
    early: Mutex<HashMap<u64, OwnedFd>>,
}

impl HandedFiles {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, early: Mutex::default() }
    }

    /// Takes the file for question number `call`, whose answer must have come.
    ///
    /// # Errors
    /// This process has no descriptor left.
    pub(super) fn take(&self, call: u64) -> Result<OwnedFd, i32> {
        let mut early = lock(&self.early);
        loop {
            if let Some(file) = early.remove(&call) {
                return Ok(file);
            }
            let (number, file) = self.receive()?;
            match file {
                Some(file) => drop(early.insert(number, file)),
                None if number == call => return Err(libc::EMFILE),
                None => {}
            }
        }
    }

    fn receive(&self) -> Result<(u64, Option<OwnedFd>), i32> {
        let mut message = [0; MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        loop {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut message)], &mut control, flags) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.raw_os_error()),
                Ok(_) => break,
            }
        }
        let file = control.drain().find_map(|part| match part {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        Ok((u64::from_le_bytes(message), file))
    }
}

#[cfg(test)]
mod tests {
    use super::super::passing;
    use super::*;
    use std::fs::File;
    use std::io::Read;

    #[test]
    fn each_question_gets_its_file_and_who_takes_none_is_refused_more() {
        let (ours, theirs) = passing::pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        for name in ["1", "2"] {
            std::fs::write(dir.path().join(name), name).unwrap();
            send(&ours, name.parse().unwrap(), &File::open(dir.path().join(name)).unwrap().into()).unwrap();
        }
        let files = HandedFiles::new(theirs);
        for call in [2, 1] {
            let mut text = String::new();
            File::from(files.take(call).unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, call.to_string());
        }
        assert_eq!(files.take(3).err(), Some(libc::EAGAIN), "nothing was sent");
        let file = File::open(dir.path().join("1")).unwrap().into();
        let sent = (0..100_000).take_while(|call| send(&ours, *call, &file).is_ok()).count();
        assert!((1..100_000).contains(&sent), "{sent}");
    }
}
