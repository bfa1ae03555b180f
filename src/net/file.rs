//! Bodies that are parts of files. They are sent from the kernel's page cache and never mapped. A file that is truncated while
//! it is sent therefore ends its connection and nothing else.

use super::lent::Lent;
use super::sys;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// The body behind the head of an answer.
#[derive(Debug)]
pub enum Attached {
    /// Memory of another process.
    Lent(Box<dyn Lent>),
    /// Pieces of text and of a file.
    Pieces(Vec<BodyPiece>),
}

impl Attached {
    /// Bytes of memory that the body holds.
    #[must_use]
    pub fn held(&self) -> usize {
        let in_piece = |piece: &BodyPiece| match piece {
            BodyPiece::Bytes(bytes) => bytes.len(),
            BodyPiece::File(_) => 0,
        };
        match self {
            Self::Lent(bytes) => bytes.len(),
            Self::Pieces(pieces) => pieces.iter().map(in_piece).sum(),
        }
    }

    /// Copies a body out of the memory of a process that has ended.
    pub fn leave_ended(&mut self) {
        if let Self::Lent(bytes) = self
            && bytes.is_left_behind()
        {
            let copy = bytes.copy(0..bytes.len());
            *self = Self::Pieces(vec![BodyPiece::Bytes(copy)]);
        }
    }
}

/// A piece of a body.
#[derive(Debug)]
pub enum BodyPiece {
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// Bytes of a file.
    File(FileRange),
}

/// A part of a regular file, to be sent.
#[derive(Debug)]
pub struct FileRange {
    file: Arc<OwnedFd>,
    range: Range<u64>,
    /// Bytes before this offset were in memory, or were read for this part: they are sent without another check.
    warm_until: u64,
}

impl FileRange {
    /// The bytes `range` of `file`, which must be a regular file, open for reading.
    #[must_use]
    pub fn new(file: Arc<OwnedFd>, range: Range<u64>) -> Self {
        Self { file, range, warm_until: 0 }
    }

    /// Reads all bytes of the part, for callers without a socket to send them to.
    ///
    /// # Errors
    /// The errors of pread(2), and `UnexpectedEof` when the file has become too short.
    pub fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < self.len() {
            all.extend(self.copy(all.len(), self.len())?);
        }
        Ok(all)
    }

    /// Bytes that the part has.
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.range.end.saturating_sub(self.range.start)).unwrap_or(usize::MAX)
    }

    fn at(&self, from: usize) -> (u64, usize) {
        (self.range.start.saturating_add(from as u64), self.len().saturating_sub(from))
    }

    /// The next bytes that are not in memory, among `bytes_max` bytes from byte `from` of this part on. A thread that reads
    /// them waits for a disk. `None`: all bytes are in memory, as far as the kernel tells.
    pub(super) fn cold(&mut self, from: usize, bytes_max: usize) -> Option<ColdRange> {
        let (start, left) = self.at(from);
        if start < self.warm_until {
            return None;
        }
        let bytes = left.min(bytes_max);
        if sys::is_in_memory(self.file.as_raw_fd(), start, bytes) {
            self.warm_until = start.saturating_add(bytes as u64);
            return None;
        }
        Some(ColdRange { file: Arc::clone(&self.file), start, bytes })
    }

    /// The offset in the file of byte `from` of this part, and how many bytes may be taken there. If any of them are known to
    /// be in memory, only those may be taken.
    fn next(&self, from: usize, bytes_max: usize) -> (u64, usize) {
        let (start, left) = self.at(from);
        let warm = usize::try_from(self.warm_until.saturating_sub(start)).unwrap_or(usize::MAX);
        (start, left.min(bytes_max).min(if warm == 0 { usize::MAX } else { warm }))
    }

    /// Records that the bytes up to offset `end` of the file have been read.
    pub(super) fn warmed(&mut self, end: u64) {
        self.warm_until = end;
    }

    /// Sends at most `bytes_max` bytes from byte `from` of this part on.
    ///
    /// # Errors
    /// The errors of sendfile(2), and `UnexpectedEof` when the file has become too short.
    pub(super) fn send(&self, socket: RawFd, from: usize, bytes_max: usize) -> io::Result<usize> {
        let (start, bytes) = self.next(from, bytes_max);
        match sys::send_file(socket, self.file.as_raw_fd(), start, bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }

    /// Copies at most `bytes_max` bytes from byte `from` of this part on.
    ///
    /// # Errors
    /// The errors of pread(2), and `UnexpectedEof` when the file has become too short.
    pub(super) fn copy(&self, from: usize, bytes_max: usize) -> io::Result<Vec<u8>> {
        let (start, bytes) = self.next(from, bytes_max);
        let mut bytes = vec![0; bytes];
        match rustix::io::pread(&*self.file, &mut bytes[..], start)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                bytes.truncate(count);
                Ok(bytes)
            }
        }
    }
}

/// Bytes of a file, to be read into memory.
#[derive(Debug)]
pub(super) struct ColdRange {
    file: Arc<OwnedFd>,
    start: u64,
    bytes: usize,
}

impl ColdRange {
    /// The offset of the first byte behind the range.
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes as u64)
    }

    /// Makes the kernel read the range; waits for the disk.
    pub(super) fn read(&self, buffer: &mut [u8]) {
        let mut at = self.start;
        while at < self.end() {
            let left = usize::try_from(self.end() - at).unwrap_or(usize::MAX);
            let part = buffer.get_mut(..left.min(buffer.len())).unwrap_or_default();
            // A later send detects bytes that can't be read.
            match rustix::io::pread(&*self.file, part, at) {
                Ok(count) if count > 0 => at += count as u64,
                Err(rustix::io::Errno::INTR) => {}
                _ => return,
            }
        }
    }
}
