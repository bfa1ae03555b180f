//! Checks text that arrives in parts (RFC 6455 §8.1).

/// Most bytes of a character.
const CHARACTER_BYTES_MAX: usize = 4;

/// The check of one text: the front of a character whose end has not arrived.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Utf8 {
    front: [u8; CHARACTER_BYTES_MAX],
    len: usize,
}

impl Utf8 {
    /// Checks the next part of the text. Returns false at the first byte that no later byte can make valid.
    #[must_use]
    pub(super) fn take(&mut self, part: &[u8]) -> bool {
        let Some(part) = self.complete(part) else { return false };
        match std::str::from_utf8(part) {
            Ok(_) => true,
            Err(error) if error.error_len().is_none() => {
                self.keep(part.get(error.valid_up_to()..).unwrap_or_default());
                true
            }
            Err(_) => false,
        }
    }

    /// Whether no character is incomplete.
    #[must_use]
    pub(super) fn is_complete(&self) -> bool {
        self.len == 0
    }

    /// Completes the incomplete character from the front of `part`, and returns the rest. `None`: the character is invalid.
    fn complete<'a>(&mut self, part: &'a [u8]) -> Option<&'a [u8]> {
        let mut rest = part;
        while self.len > 0
            && let Some((&byte, after)) = rest.split_first()
        {
            *self.front.get_mut(self.len)? = byte;
            (self.len, rest) = (self.len + 1, after);
            match std::str::from_utf8(self.front.get(..self.len)?) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return None,
            }
        }
        Some(rest)
    }

    fn keep(&mut self, front: &[u8]) {
        self.len = front.len().min(CHARACTER_BYTES_MAX);
        self.front.iter_mut().zip(front).for_each(|(place, byte)| *place = *byte);
    }
}

#[cfg(test)]
mod tests {
    use super::Utf8;
    use proptest::prelude::*;

    /// How many parts are taken, and whether the text is then complete.
    fn taken(parts: &[&[u8]]) -> (usize, bool) {
        let mut text = Utf8::default();
        let count = parts.iter().take_while(|part| text.take(part)).count();
        (count, text.is_complete())
    }

    #[test]
    fn a_character_may_arrive_in_parts_and_a_wrong_byte_is_found_at_once() {
        assert_eq!(taken(&[b"a\xe2", b"", b"\x82", b"\xacb\xf0\x9f\x98", b"\x80"]), (5, true));
        assert_eq!(taken(&[b"a\xe2\x82"]), (1, false));
        assert_eq!(taken(&[b"\xe2", b"\x28\xa1"]).0, 1);
        assert_eq!(taken(&[b"\xe0", b"\x80"]).0, 1, "an overlong form");
        assert_eq!(taken(&[b"\xed", b"\xa0"]).0, 1, "a surrogate");
        assert_eq!(taken(&[b"ok\xff"]).0, 0);
    }

    proptest! {
        #[test]
        fn any_parts_are_judged_like_the_whole(
            text in "[aé€😀]{0,20}",
            wrong in proptest::option::of((0..40_usize, any::<u8>())),
            mut cuts in proptest::collection::vec(0..80_usize, 0..8),
        ) {
            let mut bytes = text.into_bytes();
            if let Some((at, byte)) = wrong && let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            cuts.sort_unstable();
            let (mut parts, mut at) = (Vec::new(), 0);
            for cut in cuts.into_iter().chain([bytes.len()]) {
                let cut = cut.clamp(at, bytes.len());
                parts.push(&bytes[at..cut]);
                at = cut;
            }
            let (count, is_complete) = taken(&parts);
            let sound = count == parts.len() && is_complete;
            prop_assert_eq!(sound, std::str::from_utf8(&bytes).is_ok());
            // The first part that is refused is the one with the first wrong byte.
            let before: usize = parts.iter().take(count).map(|part| part.len()).sum();
            let judged = std::str::from_utf8(&bytes[..before]);
            prop_assert!(judged.is_ok() || judged.is_err_and(|error| error.error_len().is_none()));
        }
    }
}
