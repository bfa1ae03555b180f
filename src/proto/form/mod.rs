//! Form bodies and query strings.

mod multipart;
mod pieces;
mod urlencoded;

pub use pieces::{Form, FormEvent, PartHead};

pub use multipart::{FIELDS_MAX, MultipartError, Part, multipart, multipart_boundary};
pub use urlencoded::{is_urlencoded, percent_decoded, urlencoded};
