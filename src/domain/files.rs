//! Answers with files, on their way from the module's process to a connection.

use crate::abi::files::{FileAnswer, Piece};
use crate::net::{Attached, BodyPiece, FileRange};
use crate::proto::http1::{ResponseHead, encode_response};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Appends the head of an answer with a file, whose handler has set the header fields `given`. Returns the number of
/// dropped fields.
pub(super) fn encode<'a>(
    out: &mut Vec<u8>,
    head: &ResponseHead<'_>,
    file: &'a FileAnswer,
    given: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> u32 {
    let fields = file.fields(given);
    let fields = fields.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
    // The head has the body's length; the body's bytes are sent separately.
    let head = ResponseHead { head_only: true, ..*head };
    encode_response(out, &head, fields, &[])
}

/// The body of an answer whose file was opened in this process.
pub(super) fn attached(file: &FileAnswer) -> Option<Attached> {
    let parts = file.parts.as_ref()?;
    Some(pieces(parts.file.descriptor(), parts.pieces.iter().cloned()))
}

/// A body of pieces of `file`.
pub(super) fn pieces(file: &Arc<OwnedFd>, pieces: impl Iterator<Item = Piece>) -> Attached {
    let piece = |piece| match piece {
        Piece::Text(bytes) => BodyPiece::Bytes(bytes),
        Piece::Part(range) => BodyPiece::File(FileRange::new(Arc::clone(file), range)),
    };
    Attached::Pieces(pieces.map(piece).collect())
}
