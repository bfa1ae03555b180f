//! Checks UTF-8 that arrives in pieces (RFC 3629).

/// Longest incomplete beginning of a character, in bytes.
const TAIL_BYTES_MAX: usize = 3;
/// Bytes that are unmasked and checked at a time: a multiple of the mask's four.
const STEP_BYTES: usize = 1024;

/// Checks a text piece by piece. An invalid text is refused at its first wrong byte.
#[derive(Debug, Default)]
pub(super) struct Utf8 {
    /// The beginning of a character whose end has not arrived.
    tail: [u8; TAIL_BYTES_MAX],
    tail_len: usize,
}

impl Utf8 {
    /// Takes the next bytes, masked with `mask` from mask byte `phase` on (RFC 6455 §5.3). Returns whether all bytes so far can
    /// be part of a valid text.
    pub(super) fn push(&mut self, masked: &[u8], mask: [u8; 4], phase: usize) -> bool {
        let mut mask = mask;
        mask.rotate_left(phase % 4);
        let mut text = [0; TAIL_BYTES_MAX + STEP_BYTES];
        for piece in masked.chunks(STEP_BYTES) {
            let before = self.tail_len;
            let places = text.get_mut(before..before + piece.len()).unwrap_or_default();
            places.copy_from_slice(piece);
            let (fours, rest) = places.as_chunks_mut::<4>();
            for four in fours {
                *four = (u32::from_ne_bytes(*four) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
            }
            rest.iter_mut().zip(mask).for_each(|(byte, key)| *byte ^= key);
            for (place, byte) in text.iter_mut().zip(self.tail.iter().take(before)) {
                *place = *byte;
            }
            if !self.check(text.get(..before + piece.len()).unwrap_or_default()) {
                return false;
            }
        }
        true
    }

    /// Checks `text`, which begins with the kept bytes, and keeps an incomplete character at its end.
    fn check(&mut self, text: &[u8]) -> bool {
        self.tail_len = 0;
        let Err(error) = std::str::from_utf8(text) else { return true };
        let rest = text.get(error.valid_up_to()..).unwrap_or_default();
        let Some(place) = self.tail.get_mut(..rest.len()).filter(|_| error.error_len().is_none()) else { return false };
        place.copy_from_slice(rest);
        self.tail_len = rest.len();
        true
    }

    /// Whether the text may end here.
    pub(super) fn is_whole(&self) -> bool {
        self.tail_len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many bytes are accepted before the first wrong byte.
    fn taken(text: &[u8]) -> usize {
        let mut utf8 = Utf8::default();
        text.iter().take_while(|byte| utf8.push(&[**byte], [0; 4], 0)).count()
    }

    #[test]
    fn the_first_wrong_byte_is_refused() {
        assert_eq!(taken("aé€😀".as_bytes()), 10);
        assert_eq!(taken(b"\xc0\x80"), 0); // overlong
        assert_eq!(taken(b"\xe0\x80\x80"), 1);
        assert_eq!(taken(b"\xed\xa0\x80"), 1); // surrogate
        assert_eq!(taken(b"\xf4\x90\x80\x80"), 1); // above U+10FFFF
        assert_eq!(taken(b"\xf5"), 0);
        assert_eq!(taken(b"\xe2\x82a"), 2);
        assert_eq!(taken(b"\x80"), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_judged_like_the_whole(
            bytes in prop_oneof![proptest::collection::vec(any::<u8>(), 0..20), "\\PC{0,900}".prop_map(String::into_bytes)],
            mask in any::<[u8; 4]>(),
            mut cuts in proptest::collection::vec(0..3000_usize, 0..6),
        ) {
            let masked: Vec<u8> = bytes.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            cuts.sort_unstable();
            let (mut utf8, mut at, mut valid) = (Utf8::default(), 0, true);
            for cut in cuts.into_iter().chain([masked.len()]) {
                let cut = cut.clamp(at, masked.len());
                valid = valid && utf8.push(&masked[at..cut], mask, at);
                at = cut;
            }
            prop_assert_eq!(valid && utf8.is_whole(), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
