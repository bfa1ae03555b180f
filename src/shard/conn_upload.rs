//! The body that a connection is sending, and its receiver.

use crate::domain::stream::{Full, Upload};
use crate::jobs::blobs::{self, BodyWriter};

/// Receiver of a body that is handed on piece by piece.
pub(super) enum BodySink {
    /// The handler of a module.
    Module(Upload),
    /// A thread of the server that stores the body.
    Own(BodyWriter),
}

fn full(full: blobs::Full) -> Full {
    match full {
        blobs::Full::Now => Full::Now,
        blobs::Full::Ever => Full::Ever,
    }
}

impl BodySink {
    /// See [`Upload::room`].
    pub(super) fn room(&mut self) -> Result<usize, Full> {
        match self {
            Self::Module(upload) => upload.room(),
            Self::Own(body) => body.room().map_err(full),
        }
    }

    /// See [`Upload::put`].
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        match self {
            Self::Module(upload) => upload.put(bytes),
            Self::Own(body) => body.put(bytes).map_err(full),
        }
    }

    /// Bytes of memory that bytes on their way take up, at most. Those of modules lie in memory of their domain.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::Module(_) => 0,
            Self::Own(_) => blobs::BUFFERS_BYTES,
        }
    }

    /// See [`Upload::end`].
    pub(super) fn end(&mut self, errno: Option<i32>) {
        match self {
            Self::Module(upload) => upload.end(errno),
            Self::Own(body) => body.end(errno),
        }
    }
}

/// What is left of a body that its handler has not read is thrown away up to this many bytes; if there may be more, the
/// connection is closed.
pub(super) const DRAINED_BYTES_MAX: usize = 256 * 1024;

/// The body that a connection is sending to a handler.
pub(super) struct ConnUpload {
    /// The number of its request.
    seq: u64,
    /// `None`: the handler takes no more of it.
    upload: Option<BodySink>,
    /// The client waits for `100 Continue` until the handler reads.
    continue_owed: bool,
    /// Bytes thrown away.
    drained: usize,
}

impl ConnUpload {
    /// The body of request number `seq`, which goes to `sink`.
    pub(super) fn new(seq: u64, sink: BodySink, expects_continue: bool) -> Self {
        Self { seq, upload: Some(sink), continue_owed: expects_continue, drained: 0 }
    }

    /// Bytes of memory of it that wait for the receiver.
    pub(super) fn held(&self) -> usize {
        self.upload.as_ref().map_or(0, BodySink::held)
    }

    /// Whether the client rightly sends nothing, because it waits for `100 Continue`.
    pub(super) fn owes_continue(&self) -> bool {
        self.continue_owed && self.is_taken()
    }

    /// Whether the handler still takes it.
    pub(super) fn is_taken(&self) -> bool {
        self.upload.is_some()
    }

    /// Whether the client waits for `100 Continue`.
    pub(super) fn awaits_continue(&self) -> bool {
        self.continue_owed
    }

    /// Whether the client waits for `100 Continue`, which it gets now.
    pub(super) fn take_continue(&mut self) -> bool {
        std::mem::take(&mut self.continue_owed)
    }

    /// The number of its request.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Bytes that can be put now: without limit what the handler does not take. `None`: there is no room now.
    pub(super) fn room(&mut self) -> Option<usize> {
        match self.upload.as_mut().map(BodySink::room) {
            None => Some(usize::MAX),
            Some(Ok(room)) => Some(room),
            Some(Err(Full::Now)) => None,
            Some(Err(Full::Ever)) => {
                self.upload = None;
                Some(usize::MAX)
            }
        }
    }

    /// Hands `bytes` over, or throws them away if the handler does not take them.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if self.upload.as_mut().is_none_or(|upload| upload.put(bytes).is_err()) {
            self.upload = None;
            self.drained += bytes.len();
        }
    }

    /// Whether more was thrown away than a connection may send in vain.
    pub(super) fn has_drained_much(&self) -> bool {
        self.drained > DRAINED_BYTES_MAX
    }

    /// The body is complete; or, with an `errno`, will never be.
    pub(super) fn end(&mut self, errno: Option<i32>) {
        if let Some(upload) = &mut self.upload {
            upload.end(errno);
        }
    }

    /// The handler takes no more of it.
    pub(super) fn leave(&mut self) {
        self.upload = None;
    }
}
