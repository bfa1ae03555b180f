//! Form bodies and query strings.

mod multipart;
mod urlencoded;

pub use multipart::{MultipartError, Part, multipart, multipart_boundary};
pub use urlencoded::{percent_decoded, urlencoded};
