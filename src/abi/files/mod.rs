//! Answers with files, in the process of the modules. A file is opened with the rights of that process, and the request's
//! conditions and ranges are judged. The server gets the open descriptor and the parts to send.
//!
//! The calling thread must be an executor's, which may wait for a disk. This code reads no bytes of a file.

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
