//! Names of a job's input and output files, and of the blobs of its events.

use super::id::BlobId;

/// Limit, in bytes, on a name.
pub(in crate::jobs) const NAME_BYTES_MAX: usize = 128;

/// Whether a file of a job can have this name: 1 to 128 bytes of UTF-8, no `/`, no control characters, and no dot at the start.
/// Such a name can't leave its directory, and is valid in a URL.
#[must_use]
pub fn is_file_name(name: &str) -> bool {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    fits && !name.starts_with('.') && !name.chars().any(|c| c == '/' || c == '\\' || c.is_control())
}

/// The data of an event whose bytes are stored as a blob.
#[must_use]
pub fn event_reference(id: &BlobId, bytes: usize) -> String {
    format!("{{\"blob\":\"{id}\",\"bytes\":{bytes}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_directory() {
        for good in ["in", "out.png", "a b", "ä", "x.tar.gz", &"x".repeat(128)] {
            assert!(is_file_name(good), "{good}");
        }
        for wrong in ["", ".", "..", ".x", "a/b", "/a", "a\\b", "a\0", "a\n", &"x".repeat(129)] {
            assert!(!is_file_name(wrong), "{wrong}");
        }
    }
}
