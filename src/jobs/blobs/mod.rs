//! Files that jobs read and write. Inputs are blobs: a blob is named by the SHA-256 of its bytes and never changes.
//!
//! A blob lies in one file of the directory `blobs`, named by its hash in hexadecimal; `blobs/incoming` has
//! uploads in progress. A blob counts once its file and the directory are on the disk. Outputs of jobs lie in `job-files`. One
//! quota covers all of them; an upload must reserve its share of the quota before its bytes are written.

mod body;
mod id;
mod incoming;
mod listing;
mod names;
mod outputs;
mod receive;
mod run_files;
mod store;

pub use body::{BUFFERS_BYTES, BodyEnd, BodyReader, BodyWriter, Full, Notify, body};
pub use id::BlobId;
pub use incoming::{StoredBlob, Upload};
pub use listing::Listed;
pub use names::event_reference;
pub use names::is_file_name;
pub use receive::receive;
pub use run_files::MadeFile;
pub(super) use run_files::RunFiles;
pub use store::{BlobError, Blobs, BlobsConfig, OpenBlob, Pins, Usage, Wake};
