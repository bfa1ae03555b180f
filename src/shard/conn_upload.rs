//! The body that a connection is sending, and its receiver.

use crate::domain::stream::{Full, Upload};
use crate::jobs::blobs::{self, BodyWriter};

/// The receiver of a body that is passed on in pieces.
pub(super) enum BodySink {
    /// A module's handler.
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

    /// Limit, in bytes, on the server's memory for pieces on their way. The pieces for modules lie in memory of their
    /// domain.
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

/// Up to this many bytes of a body that its handler has not read are discarded; beyond that, the connection is closed.
pub(super) const DRAINED_BYTES_MAX: usize = 256 * 1024;

/// A body that a connection passes on in pieces.
pub(super) struct ConnUpload {
    /// The number of the body's request.
    seq: u64,
    /// `None`: the receiver takes no more.
    upload: Option<BodySink>,
    /// Whether the client waits for `100 Continue` until the handler reads.
    continue_owed: bool,
    /// The number of discarded bytes.
    drained: usize,
}

impl ConnUpload {
    /// The body of request number `seq`, for `sink`.
    pub(super) fn new(seq: u64, sink: BodySink, expects_continue: bool) -> Self {
        Self { seq, upload: Some(sink), continue_owed: expects_continue, drained: 0 }
    }

    /// Bytes of memory that wait for the receiver.
    pub(super) fn held(&self) -> usize {
        self.upload.as_ref().map_or(0, BodySink::held)
    }

    /// Whether the client sends nothing because it waits for `100 Continue`.
    pub(super) fn owes_continue(&self) -> bool {
        self.continue_owed && self.is_taken()
    }

    /// Whether the receiver still takes bytes.
    pub(super) fn is_taken(&self) -> bool {
        self.upload.is_some()
    }

    /// Whether the client waits for `100 Continue`.
    pub(super) fn awaits_continue(&self) -> bool {
        self.continue_owed
    }

    /// Whether the client waits for `100 Continue`; the shard then sends it now.
    pub(super) fn take_continue(&mut self) -> bool {
        std::mem::take(&mut self.continue_owed)
    }

    /// The number of the body's request.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// The number of bytes that can be taken now; no limit if the handler takes none of them. `None`: there is no room now.
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

    /// Passes `bytes` to the handler, or discards them if the handler takes none.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if self.upload.as_mut().is_none_or(|upload| upload.put(bytes).is_err()) {
            self.upload = None;
            self.drained += bytes.len();
        }
    }

    /// Whether more bytes were discarded than a connection may send in vain.
    pub(super) fn has_drained_much(&self) -> bool {
        self.drained > DRAINED_BYTES_MAX
    }

    /// Ends the body: it is complete, or it fails with this `errno`.
    pub(super) fn end(&mut self, errno: Option<i32>) {
        if let Some(upload) = &mut self.upload {
            upload.end(errno);
        }
    }

    /// The handler takes no more bytes of the body.
    pub(super) fn leave(&mut self) {
        self.upload = None;
    }
}
