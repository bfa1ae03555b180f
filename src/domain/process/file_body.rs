//! The part of a record that describes the content of an answer from a file. Sans-IO; the input comes from a hostile
//! domain.

use super::record_parts::{Headers, Reader, kind, push_block};
use crate::abi::files::Piece;

/// Limit on the pieces of a body.
const PIECES_MAX: usize = 256;

/// Limit on the bytes of a body: the largest possible file.
const BYTES_MAX: u64 = i64::MAX as u64;

/// A body of pieces of one open file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileBody {
    /// The number of the domain's open file; its descriptor is sent beside the rings.
    pub(super) file: u64,
    /// The pieces in the order in which they are sent.
    pub(super) pieces: Vec<Piece>,
}

impl FileBody {
    /// The sum of the pieces' bytes.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = |piece: &Piece| match piece {
            Piece::Text(bytes) => bytes.len() as u64,
            Piece::Part(range) => range.end - range.start,
        };
        self.pieces.iter().map(bytes).sum()
    }

    pub(super) fn push(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.file.to_le_bytes());
        out.extend_from_slice(&u16::try_from(self.pieces.len()).unwrap_or(u16::MAX).to_le_bytes());
        for piece in &self.pieces {
            match piece {
                Piece::Text(bytes) => {
                    out.push(0);
                    push_block(out, bytes);
                }
                Piece::Part(range) => {
                    out.push(1);
                    out.extend_from_slice(&range.start.to_le_bytes());
                    out.extend_from_slice(&range.end.to_le_bytes());
                }
            }
        }
    }

    /// Reads the output of [`FileBody::push`], which must be the remainder of the input.
    pub(super) fn parse(reader: &mut Reader<'_>) -> Option<Self> {
        let (file, count) = (reader.u64()?, usize::from(reader.u16()?));
        let (mut pieces, mut bytes) = (Vec::new(), 0_u64);
        for _ in 0..Some(count).filter(|count| *count <= PIECES_MAX)? {
            let piece = match reader.u8()? {
                0 => Piece::Text(reader.block()?.to_vec()),
                1 => Piece::Part(reader.u64()?..reader.u64()?),
                _ => return None,
            };
            let length = match &piece {
                Piece::Text(bytes) => bytes.len() as u64,
                Piece::Part(range) => range.end.checked_sub(range.start).filter(|_| range.end <= BYTES_MAX)?,
            };
            bytes = bytes.checked_add(length).filter(|bytes| *bytes <= BYTES_MAX)?;
            pieces.push(piece);
        }
        reader.bytes.is_empty().then_some(Self { file, pieces })
    }
}

/// A handler's answer with a file as the body, and its running time in microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileAnswer<'a> {
    pub(super) ticket: u64,
    pub(super) ran_us: u32,
    pub(super) status: u16,
    pub(super) headers: Headers<'a>,
    pub(super) file: FileBody,
}

/// Turns the fixed part of an answer into that of an answer with a file.
pub(super) fn attach_file(fixed: &mut Vec<u8>, file: &FileBody) {
    if let Some(kind) = fixed.first_mut() {
        *kind = kind::ANSWER_FILE;
    }
    file.push(fixed);
}

#[cfg(test)]
mod tests {
    use super::super::wire::{self, ToServer};
    use super::*;
    use proptest::prelude::*;

    fn record(file: &FileBody) -> Vec<u8> {
        let mut record = Vec::new();
        wire::answer_head(&mut record, 1, 2, 206, [(b"a".as_slice(), b"b".as_slice())].into_iter());
        attach_file(&mut record, file);
        record
    }

    #[test]
    fn bodies_come_back_and_wrong_ones_are_refused() {
        let pieces = vec![Piece::Text(b"head".to_vec()), Piece::Part(3..10), Piece::Part(5..5)];
        let file = FileBody { file: 7, pieces };
        let whole = record(&file);
        let Ok(ToServer::FileAnswer(read)) = ToServer::read(&whole) else { panic!() };
        assert_eq!((read.ticket, read.ran_us, read.status), (1, 2, 206));
        assert_eq!((read.headers.iter().count(), read.file.bytes()), (1, 11));
        assert_eq!(read.file, file);
        for end in 0..whole.len() {
            assert!(ToServer::read(&whole[..end]).is_err(), "{end}");
        }
        assert!(ToServer::read(&[&whole[..], &[0]].concat()).is_err());
        #[expect(clippy::reversed_empty_ranges)]
        let wrong = [vec![Piece::Part(9..3)], vec![Piece::Part(0..u64::MAX)], vec![Piece::Part(0..BYTES_MAX); 2]];
        for pieces in wrong.into_iter().chain([vec![Piece::Part(0..1); PIECES_MAX + 1]]) {
            assert!(ToServer::read(&record(&FileBody { file: 1, pieces })).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_body_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(file) = FileBody::parse(&mut Reader { bytes: &bytes }) {
                prop_assert!(file.bytes() <= BYTES_MAX);
            }
        }
    }
}
