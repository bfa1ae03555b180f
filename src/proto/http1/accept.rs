//! `Accept` (RFC 9110 §12.5.1).

/// Whether the value of an `Accept` field names `media_type`, in any case, with a weight above 0. Wildcards don't count: a
/// client must name a media type to get an answer other than the default.
#[must_use]
pub fn accepts(value: &[u8], media_type: &str) -> bool {
    let ranges = value.split(|byte| *byte == b',');
    ranges.into_iter().any(|range| {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(media_type.as_bytes()));
        named && !parts.any(is_zero_weight)
    })
}

/// `q=0`, `q=0.000`
fn is_zero_weight(parameter: &[u8]) -> bool {
    let Some((name, value)) = parameter.split_at_checked(2) else { return false };
    name.eq_ignore_ascii_case(b"q=") && value.starts_with(b"0") && value.iter().all(|byte| matches!(byte, b'0' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::accepts;

    #[test]
    fn media_types_have_no_case() {
        for value in ["text/event-stream", "TEXT/Event-Stream", "a/b, text/event-stream;q=0.5", "text/event-stream ; x"]
        {
            assert!(accepts(value.as_bytes(), "text/event-stream"), "{value}");
        }
        for value in ["", "*/*", "text/*", "text/event-streams", "x;text/event-stream", "text/event-stream;Q=0.0"] {
            assert!(!accepts(value.as_bytes(), "text/event-stream"), "{value}");
        }
    }
}
