//! The outbox: the queue of bytes to send on one connection.

mod left_behind;

use super::file::{Attached, BodyPiece, ColdRange, FileRange};
use super::lent::Lent;
use super::sys::{self, IOVECS_MAX};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Smallest size, in bytes, of bytes that are referenced rather than copied: below it, a copy is cheaper than one more buffer
/// in `sendmsg(2)`.
const REFERENCE_BYTES_MIN: usize = 1024;

/// Sent bytes at the start of the tail are dropped once they are this many and at least half of the tail. Otherwise a tail that
/// never becomes quite empty would grow for ever. Each byte is moved at most once on average.
const COMPACT_BYTES_MIN: usize = 16 * 1024;

/// Limit, in bytes, on one system call and on one share of a turn. A peer that takes bytes as fast as they are sent must not
/// occupy the shard for the duration of a large answer.
pub(super) const SEND_BYTES_MAX: usize = 512 * 1024;
/// Limit, in bytes, on lent bytes that are copied at once.
const COPY_BYTES_MAX: usize = 64 * 1024;
/// A sent buffer with a larger capacity, in bytes, is freed.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// Capacity, in segments, that is kept after all are sent; an answer has one or two segments.
const KEPT_SEGMENTS_MAX: usize = 4;

#[derive(Debug)]
enum Segment {
    Own(Vec<u8>),
    /// The bytes, and the share of their memory that this queue is charged for.
    Shared(Arc<[u8]>, usize),
    /// The bytes from an offset on: the bytes before it have been copied out.
    Lent(Box<dyn Lent>, usize),
    /// The part of a file from an offset on: the bytes before it have been copied out.
    File(FileRange, usize),
}

/// A reference to `bytes`. All holders share one copy, so each is charged less the more holders there are.
fn shared(bytes: Arc<[u8]>) -> Segment {
    let share = bytes.len() / Arc::strong_count(&bytes).max(1);
    Segment::Shared(bytes, share)
}

impl Segment {
    fn len(&self) -> usize {
        match self {
            Segment::Own(bytes) => bytes.len(),
            Segment::Shared(bytes, _) => bytes.len(),
            Segment::Lent(bytes, from) => bytes.len().saturating_sub(*from),
            Segment::File(part, from) => part.len().saturating_sub(*from),
        }
    }

    /// The segment's bytes; `None` if another process can write them or they are in a file.
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Segment::Own(bytes) => Some(bytes),
            Segment::Shared(bytes, _) => Some(bytes),
            Segment::Lent(..) | Segment::File(..) => None,
        }
    }

    /// Bytes of memory that the segment holds, with memory lent by a domain.
    fn held(&self) -> usize {
        match self {
            Segment::Shared(_, share) => *share,
            Segment::File(..) => 0,
            other => other.len(),
        }
    }
}

/// The result of a flush.
#[derive(Debug)]
pub(super) enum Sent {
    /// All is sent.
    All,
    /// The socket takes no more bytes for now.
    Blocked,
    /// The share of this turn is sent, and there is more.
    Spent,
    /// This range must be read from a disk first.
    Cold(ColdRange),
}

/// At most the first `bytes_max` of `bytes`.
fn bounded(bytes: &[u8], bytes_max: usize) -> &[u8] {
    bytes.get(..bytes_max).unwrap_or(bytes)
}

/// A queue of bytes in segments: small writes gather in the tail, large ones are queued without a copy, and frames for many
/// connections are shared.
#[derive(Debug, Default)]
pub struct Outbox {
    segments: VecDeque<Segment>,
    /// Bytes in `segments`, with sent bytes of the first. Bytes of the tail are not counted, because [`Outbox::buffer`] lends
    /// the tail.
    sealed: usize,
    /// The sum of [`Segment::held`].
    held: usize,
    tail: Vec<u8>,
    /// Bytes of the first segment (of the tail, if there is none) that are already sent.
    sent: usize,
    /// Bytes sent in total, wrapping.
    total: usize,
    /// The socket was made non-blocking, because sendfile(2) has no flag for that.
    is_nonblocking: bool,
}

impl Outbox {
    /// Appends a copy of `bytes`.
    pub fn push(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
    }

    /// The buffer at the end of the queue, to append to; the caller must not remove its bytes.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// Appends `bytes`, without a copy if there are many.
    pub fn push_owned(&mut self, bytes: Vec<u8>) {
        if bytes.len() < REFERENCE_BYTES_MIN {
            self.push(&bytes);
        } else {
            self.seal_tail();
            self.push_segment(Segment::Own(bytes));
        }
    }

    /// Appends `bytes`, by reference if there are many.
    pub fn push_shared(&mut self, bytes: Arc<[u8]>) {
        if bytes.len() < REFERENCE_BYTES_MIN {
            self.push(&bytes);
        } else {
            self.seal_tail();
            self.push_segment(shared(bytes));
        }
    }

    /// Appends `bytes` from offset `from` on. If `from` is not 0, the bytes before it must have been sent, and nothing else may
    /// be queued.
    pub fn push_rest(&mut self, bytes: Arc<[u8]>, from: usize) {
        let rest = bytes.get(from..).unwrap_or_default();
        if from == 0 || rest.len() < REFERENCE_BYTES_MIN {
            return if from == 0 { self.push_shared(bytes) } else { self.push(rest) };
        }
        debug_assert!(self.is_empty());
        self.push_segment(shared(bytes));
        self.sent = from;
    }

    /// Counts bytes that were sent without passing through the queue.
    pub(super) fn sent_past(&mut self, count: usize) {
        self.total = self.total.wrapping_add(count);
    }

    /// Appends `bytes` without a copy.
    pub fn push_lent(&mut self, bytes: Box<dyn Lent>) {
        self.seal_tail();
        self.push_segment(Segment::Lent(bytes, 0));
    }

    /// Appends the body behind a head.
    pub fn push_attached(&mut self, attached: Attached) {
        match attached {
            Attached::Lent(bytes) => self.push_lent(bytes),
            Attached::Pieces(pieces) => pieces.into_iter().for_each(|piece| match piece {
                BodyPiece::Bytes(bytes) => self.push_owned(bytes),
                BodyPiece::File(part) if part.len() == 0 => {}
                BodyPiece::File(part) => {
                    self.seal_tail();
                    self.push_segment(Segment::File(part, 0));
                }
            }),
        }
    }

    /// The next range to send that must be read from a disk first, as far as the kernel tells.
    pub(super) fn cold(&mut self) -> Option<ColdRange> {
        match self.segments.front_mut() {
            Some(Segment::File(part, from)) => part.cold(from.saturating_add(self.sent), SEND_BYTES_MAX),
            _ => None,
        }
    }

    /// Records that the bytes of the file at the front have been read up to offset `end`.
    pub(super) fn warmed(&mut self, end: u64) {
        if let Some(Segment::File(part, _)) = self.segments.front_mut() {
            part.warmed(end);
        }
    }

    /// Copies the next bytes to the front for [`Outbox::front`], if they belong to a file.
    ///
    /// # Errors
    /// The file can't be read, or has become too short.
    pub(super) fn load(&mut self) -> io::Result<()> {
        let Some(Segment::File(part, from)) = self.segments.front() else { return Ok(()) };
        let start = from.saturating_add(self.sent);
        let copy = part.copy(start, COPY_BYTES_MAX)?;
        self.put_before(copy, start);
        Ok(())
    }

    /// Inserts a copy of the first unsent bytes, which begin at `start` of the first segment, before the rest of that segment.
    fn put_before(&mut self, copy: Vec<u8>, start: usize) {
        let end = start.saturating_add(copy.len());
        let before = self.segments.front().map_or(0, Segment::held);
        let over = match self.segments.front_mut() {
            Some(Segment::Lent(bytes, from)) => {
                *from = end;
                end >= bytes.len()
            }
            Some(Segment::File(part, from)) => {
                *from = end;
                end >= part.len()
            }
            _ => return,
        };
        self.sealed -= std::mem::take(&mut self.sent);
        if over {
            self.segments.pop_front();
        }
        let after = self.segments.front().filter(|_| !over).map_or(0, Segment::held);
        self.held = self.held - before + after + copy.len();
        self.segments.push_front(Segment::Own(copy));
    }

    /// Bytes that are not sent yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sealed + self.tail.len() - self.sent
    }

    /// Bytes of memory that unsent bytes hold: the server's own memory, and memory lent by a domain.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held + self.tail.capacity()
    }

    /// Bytes sent so far, wrapping: the difference between two moments is the progress.
    #[must_use]
    pub fn sent_total(&self) -> usize {
        self.total
    }

    /// Whether nothing is left to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.tail.len() == self.sent
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            // The partly sent tail becomes the first segment, so `sent` continues to count in it.
            let tail = std::mem::take(&mut self.tail);
            self.push_segment(Segment::Own(tail));
        }
    }

    fn push_segment(&mut self, segment: Segment) {
        self.sealed += segment.len();
        self.held += segment.held();
        self.segments.push_back(segment);
    }

    /// Fills `room` with slices of the unsent bytes before the first lent ones, at most `bytes_max` bytes. Returns how many
    /// slices there are, and whether lent bytes follow. Bytes that do not fit wait for the next send.
    fn slices<'a>(&'a self, room: &mut [io::IoSlice<'a>; IOVECS_MAX], bytes_max: usize) -> (usize, bool) {
        let all = self.segments.iter().map(Segment::bytes).chain(std::iter::once(Some(self.tail.as_slice())));
        let (mut count, mut skip, mut left) = (0, self.sent, bytes_max);
        for (slice, bytes) in room.iter_mut().zip(all) {
            let Some(bytes) = bytes else { return (count, true) };
            let bytes = bytes.get(skip..).unwrap_or_default();
            let part = bytes.get(..bytes.len().min(left)).unwrap_or_default();
            *slice = io::IoSlice::new(part);
            (count, skip, left) = (count + 1, 0, left - part.len());
            if left == 0 {
                break;
            }
        }
        (count, false)
    }

    /// Sends at most `bytes_max` queued bytes with one system call.
    fn send_some(&self, fd: RawFd, bytes_max: usize) -> io::Result<usize> {
        match self.segments.front() {
            None => return sys::send(fd, bounded(self.tail.get(self.sent..).unwrap_or_default(), bytes_max)),
            Some(Segment::Lent(bytes, from)) => {
                let more = self.segments.len() > 1 || !self.tail.is_empty();
                return sys::send_lent(fd, &**bytes, from.saturating_add(self.sent), bytes_max, more);
            }
            Some(Segment::File(part, from)) => return part.send(fd, from.saturating_add(self.sent), bytes_max),
            Some(_) => {}
        }
        let mut room = [io::IoSlice::new(&[]); IOVECS_MAX];
        let (count, more) = self.slices(&mut room, bytes_max);
        sys::send_vectored(fd, room.get(..count).unwrap_or_default(), more)
    }

    /// The first unsent bytes, all of one segment. Lent bytes are partly copied for this; for bytes of a file see
    /// [`Outbox::load`].
    pub(super) fn front(&mut self) -> &[u8] {
        if let Some(Segment::Lent(bytes, from)) = self.segments.front() {
            let start = *from + self.sent;
            let copy = bytes.copy(start..start.saturating_add(COPY_BYTES_MAX));
            self.put_before(copy, start);
        }
        let first = self.segments.front().map_or(Some(self.tail.as_slice()), Segment::bytes);
        first.and_then(|bytes| bytes.get(self.sent..)).unwrap_or_default()
    }

    /// Drops all unsent bytes.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Marks the first `count` unsent bytes as sent.
    pub(super) fn advance(&mut self, count: usize) {
        self.sent += count;
        self.total = self.total.wrapping_add(count);
        while let Some(first) = self.segments.front() {
            let len = first.len();
            if self.sent < len {
                return;
            }
            self.sent -= len;
            self.sealed -= len;
            self.held -= first.held();
            self.segments.pop_front();
        }
        if self.sent == self.tail.len() {
            self.sent = 0;
            self.tail.clear();
        } else if self.sent >= COMPACT_BYTES_MIN && self.sent >= self.tail.len() / 2 {
            self.tail.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Sends until all is sent, the socket takes no more, `share` bytes are sent, or the next bytes are on a disk.
    pub(super) fn flush(&mut self, fd: RawFd, share: usize) -> io::Result<Sent> {
        let mut left = share;
        while !self.is_empty() {
            if left == 0 {
                return Ok(Sent::Spent);
            }
            if let Some(range) = self.cold() {
                return Ok(Sent::Cold(range));
            }
            if !self.is_nonblocking && matches!(self.segments.front(), Some(Segment::File(..))) {
                sys::nonblocking(fd)?;
                self.is_nonblocking = true;
            }
            match self.send_some(fd, left) {
                Ok(count) => {
                    self.advance(count);
                    left = left.saturating_sub(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Sent::Blocked),
                Err(error) => return Err(error),
            }
        }
        Ok(Sent::All)
    }

    /// Takes the memory of an empty tail, because an idle connection must keep no buffer.
    pub(super) fn take_spare(&mut self) -> Option<Vec<u8>> {
        if self.segments.is_empty() && self.segments.capacity() > KEPT_SEGMENTS_MAX {
            self.segments = VecDeque::new();
        }
        if self.tail.is_empty() && self.tail.capacity() > 0 {
            let spare = std::mem::take(&mut self.tail);
            return (spare.capacity() <= KEPT_BYTES_MAX).then_some(spare);
        }
        None
    }

    /// Gives the tail a buffer to write into.
    pub(super) fn give_spare(&mut self, spare: Vec<u8>) {
        if self.tail.capacity() == 0 {
            self.tail = spare;
        }
    }

    /// Whether the tail has a buffer.
    pub(super) fn has_buffer(&self) -> bool {
        self.tail.capacity() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use std::ops::Range;
    use std::os::fd::AsRawFd;

    #[derive(Debug, Clone)]
    enum Step {
        Push(Vec<u8>),
        Append(Vec<u8>),
        Owned(Vec<u8>),
        Shared(Vec<u8>),
        Lent(Vec<u8>),
        File(Vec<u8>),
        Send(usize),
        /// Reads the front, as the TLS path does.
        Front(usize),
    }

    #[derive(Debug)]
    struct Other(Vec<u8>);

    // SAFETY: the bytes are in a vector that no code changes.
    unsafe impl Lent for Other {
        fn pointer(&self) -> *const u8 {
            self.0.as_ptr()
        }

        fn len(&self) -> usize {
            self.0.len()
        }

        fn copy(&self, range: Range<usize>) -> Vec<u8> {
            self.0[range.start.min(self.0.len())..range.end.min(self.0.len())].to_vec()
        }
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            proptest::collection::vec(any::<u8>(), REFERENCE_BYTES_MIN..REFERENCE_BYTES_MIN + 40),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            bytes().prop_map(Step::Push),
            bytes().prop_map(Step::Append),
            bytes().prop_map(Step::Owned),
            bytes().prop_map(Step::Shared),
            proptest::collection::vec(any::<u8>(), 1..50).prop_map(Step::Lent),
            (any::<u8>(), 1..3 * COPY_BYTES_MAX).prop_map(|(byte, count)| Step::Lent(vec![byte; count])),
            (any::<u8>(), 1..2 * COPY_BYTES_MAX).prop_map(|(byte, count)| Step::File(vec![byte; count])),
            (0..3000_usize).prop_map(Step::Send),
            (0..2 * COPY_BYTES_MAX).prop_map(Step::Front),
        ]
    }

    /// A body with these bytes, from the middle of a file.
    fn file(bytes: &[u8]) -> Attached {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[b"xyz", bytes, b"more"].concat()).unwrap();
        let range = 3..3 + bytes.len() as u64;
        Attached::Pieces(vec![BodyPiece::File(FileRange::new(Arc::new(file.into()), range))])
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"ab").unwrap();
        let mut outbox = Outbox::default();
        let range = FileRange::new(Arc::new(file.into()), 0..5);
        outbox.push_attached(Attached::Pieces(vec![BodyPiece::File(range)]));
        outbox.load().unwrap();
        assert_eq!(outbox.front(), b"ab");
        outbox.advance(2);
        assert_eq!(outbox.load().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(outbox.flush(socket.as_raw_fd(), SEND_BYTES_MAX).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    /// The bytes that the next send would offer to the socket.
    fn ready(outbox: &Outbox) -> Vec<u8> {
        let mut room = [io::IoSlice::new(&[]); IOVECS_MAX];
        if let Some(Segment::Lent(bytes, from)) = outbox.segments.front() {
            return bytes.copy(from + outbox.sent..usize::MAX);
        }
        if let Some(Segment::File(part, from)) = outbox.segments.front() {
            return part.copy(from + outbox.sent, usize::MAX).unwrap();
        }
        let (count, _) = outbox.slices(&mut room, SEND_BYTES_MAX);
        room[..count].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn more_segments_than_one_send_takes_are_sent_in_order_and_leave_no_room_behind() {
        let mut outbox = Outbox::default();
        for n in 0..3 * IOVECS_MAX {
            outbox.push_owned(vec![n as u8; REFERENCE_BYTES_MIN]);
        }
        let mut sent = Vec::new();
        while !outbox.is_empty() {
            sent.extend(ready(&outbox));
            outbox.advance(sent.len() - (3 * IOVECS_MAX * REFERENCE_BYTES_MIN - outbox.len()));
        }
        assert_eq!(sent.len(), 3 * IOVECS_MAX * REFERENCE_BYTES_MIN);
        assert!(sent.iter().enumerate().all(|(at, byte)| *byte == (at / REFERENCE_BYTES_MIN) as u8));
        assert!(outbox.take_spare().is_none());
        assert_eq!(outbox.segments.capacity(), 0);
    }

    #[test]
    fn what_is_lent_is_copied_in_parts() {
        let mut outbox = Outbox::default();
        outbox.push_lent(Box::new(Other(vec![7; 3 * COPY_BYTES_MAX + 5])));
        let mut parts = Vec::new();
        while !outbox.is_empty() {
            let count = outbox.front().len();
            parts.push(count);
            outbox.advance(count);
        }
        assert_eq!(parts, [COPY_BYTES_MAX, COPY_BYTES_MAX, COPY_BYTES_MAX, 5]);
    }

    #[test]
    fn a_tail_that_is_never_quite_empty_stays_small() {
        let mut outbox = Outbox::default();
        outbox.push(&[0; 100]);
        for _ in 0..10_000 {
            outbox.push(&[0; 100]);
            outbox.advance(100);
        }
        assert_eq!(outbox.len(), 100);
        assert!(outbox.tail.capacity() < 4 * COMPACT_BYTES_MIN, "{} bytes", outbox.tail.capacity());
    }

    proptest! {
        #[test]
        fn any_pushes_and_partial_sends_give_the_same_stream(steps in proptest::collection::vec(step(), 0..40), in_front: bool) {
            let (mut outbox, mut pushed, mut sent) = (Outbox::default(), Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Push(bytes) => { pushed.extend_from_slice(&bytes); outbox.push(&bytes); }
                    Step::Append(bytes) => { pushed.extend_from_slice(&bytes); outbox.buffer().extend(bytes); }
                    Step::Owned(bytes) => { pushed.extend_from_slice(&bytes); outbox.push_owned(bytes); }
                    Step::Shared(bytes) => { pushed.extend_from_slice(&bytes); outbox.push_shared(bytes.into()); }
                    Step::Lent(bytes) => { pushed.extend_from_slice(&bytes); outbox.push_lent(Box::new(Other(bytes))); }
                    Step::File(bytes) => { pushed.extend_from_slice(&bytes); outbox.push_attached(file(&bytes)); }
                    Step::Send(count) => {
                        let ready = ready(&outbox);
                        let count = count.min(ready.len());
                        sent.extend_from_slice(&ready[..count]);
                        outbox.advance(count);
                    }
                    Step::Front(count) => {
                        outbox.load().unwrap();
                        let front = outbox.front();
                        let part = front[..count.min(front.len())].to_vec();
                        sent.extend_from_slice(&part);
                        outbox.advance(part.len());
                    }
                }
                prop_assert_eq!(outbox.len(), pushed.len() - sent.len());
                prop_assert_eq!(outbox.sealed, outbox.segments.iter().map(Segment::len).sum::<usize>());
                prop_assert_eq!(outbox.held, outbox.segments.iter().map(Segment::held).sum::<usize>());
                prop_assert_eq!(outbox.is_empty(), pushed.len() == sent.len());
            }
            while !outbox.is_empty() {
                outbox.load().unwrap();
                let ready = if in_front { outbox.front().to_vec() } else { ready(&outbox) };
                outbox.advance(ready.len());
                sent.extend_from_slice(&ready);
            }
            prop_assert_eq!(sent, pushed);
        }
    }
}
