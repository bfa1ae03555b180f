//! The name of a blob.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use std::fmt;

/// First characters of a blob's name.
const PREFIX: &str = "sha256:";

/// SHA-256 of a blob's bytes; as text `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobId([u8; 32]);

impl BlobId {
    /// The blob with this hash.
    #[must_use]
    pub fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The blob with this name; `None` if the name is invalid.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::of_digits(text.strip_prefix(PREFIX)?)
    }

    /// The blob with this hash in hexadecimal.
    pub(super) fn of_digits(digits: &str) -> Option<Self> {
        HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?.try_into().ok().map(Self)
    }

    /// The hash in hexadecimal: the name of the blob's file.
    pub(super) fn digits(&self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.digits())
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_nothing_else_is_one() {
        let name = format!("sha256:{}", "0af".repeat(22).get(..64).unwrap());
        assert_eq!(BlobId::parse(&name).unwrap().to_string(), name);
        assert_eq!(BlobId::parse(&name.to_uppercase().replace("SHA", "sha")), BlobId::parse(&name));
        for wrong in
            ["", "sha256:", "sha256:00", &name[1..], &format!("{name}0"), &name.replace('a', "g"), "sha256:../x"]
        {
            assert_eq!(BlobId::parse(wrong), None, "{wrong}");
        }
    }
}
