//! Answers with files, where modules run: a file is opened with the rights of the module's process, the request's
//! conditions and ranges are judged, and the server is handed the open descriptor and what of it to send.
//!
//! The calling thread is one that may wait for a disk: an executor's. Nothing here reads a file's bytes.

mod answer;
mod beneath;
mod call;
mod mount;
mod open;

pub use answer::{FileAnswer, FileParts, Piece};
pub use call::{FileWish, ready};
pub(super) use call::{during, send_file, sent};
pub use mount::mounted;
pub use open::OpenFile;
