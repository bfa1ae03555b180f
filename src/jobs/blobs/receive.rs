//! The thread that writes a blob as its bytes arrive.

use super::body::{BodyEnd, BodyReader};
use super::id::BlobId;
use super::incoming::{NewBlob, StoredBlob, Upload};
use super::store::BlobError;
use std::thread;

/// Writes the bytes of `body` to a blob, on a thread of its own, and calls `done` with the result. The blob has `length` bytes
/// if known; if `expected` is set, the blob's hash must equal it.
///
/// # Errors
/// The thread can't be started; `done` is dropped.
pub fn receive(
    upload: Upload,
    length: Option<u64>,
    expected: Option<BlobId>,
    body: BodyReader,
    done: impl FnOnce(Result<StoredBlob, BlobError>) + Send + 'static,
) -> Result<(), BlobError> {
    let work = move || done(upload.open(length, expected).and_then(|blob| write(blob, body)));
    thread::Builder::new().name("blob".to_owned()).spawn(work).map(drop).map_err(|error| BlobError::failed(&error))
}

fn write(mut blob: NewBlob, mut body: BodyReader) -> Result<StoredBlob, BlobError> {
    body.ask();
    let mut bytes = Vec::new();
    loop {
        match body.next(&mut bytes) {
            Ok(()) => blob.write(&bytes)?,
            Err(BodyEnd::Complete) => return blob.finish(),
            Err(BodyEnd::Broken(errno)) => return Err(blob.broken(errno)),
        }
        bytes.clear();
    }
}
