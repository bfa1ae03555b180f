//! Bytes with a NUL behind them, as modules get messages.

use std::borrow::Cow;

/// Bytes with a NUL behind them.
#[derive(Debug)]
pub struct Terminated<'a>(Cow<'a, [u8]>);

impl<'a> Terminated<'a> {
    /// The bytes before the NUL at the end of `with_nul`, which a module then reads in place; `None` if there is none.
    #[must_use]
    pub fn lent(with_nul: &'a [u8]) -> Option<Self> {
        (with_nul.last() == Some(&0)).then_some(Self(Cow::Borrowed(with_nul)))
    }

    /// A copy of `bytes`.
    #[must_use]
    pub fn copied(bytes: &[u8]) -> Self {
        let mut copy = Vec::with_capacity(bytes.len() + 1);
        copy.extend_from_slice(bytes);
        copy.push(0);
        Self(Cow::Owned(copy))
    }

    /// The bytes without the NUL.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.split_last().map_or(&[], |(_, bytes)| bytes)
    }

    /// The bytes and the NUL.
    #[must_use]
    pub fn with_nul(&self) -> &[u8] {
        &self.0
    }
}

/// Appends the NUL. A vector with room for it is not copied.
impl From<Vec<u8>> for Terminated<'_> {
    fn from(mut bytes: Vec<u8>) -> Self {
        bytes.push(0);
        Self(Cow::Owned(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::Terminated;

    #[test]
    fn the_nul_is_behind_the_bytes_and_none_of_them() {
        for bytes in [b"".as_slice(), b"a", b"a\0"] {
            for message in [Terminated::copied(bytes), bytes.to_vec().into()] {
                assert_eq!((message.bytes(), message.with_nul()), (bytes, [bytes, b"\0"].concat().as_slice()));
                assert_eq!(
                    Terminated::lent(message.with_nul()).map(|lent| lent.bytes().to_vec()).as_deref(),
                    Some(bytes)
                );
            }
        }
        assert!(Terminated::lent(b"").is_none() && Terminated::lent(b"a").is_none());
    }
}
