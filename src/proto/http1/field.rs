//! Header fields of answers: which of them can be sent, and their encoding (RFC 9110 §5).

/// How the server treats a header field that a handler has set.
pub(super) enum Fate {
    Send,
    Date,
    Origin,
    /// The server sets this field itself: it is about framing or the connection.
    Ignore,
    /// `Upgrade`: `Connection` must name it too (RFC 9110 §7.8).
    Upgrade,
    /// The field can't be sent: its name is no token, or its value has a control character (RFC 9110 §5.5).
    Drop,
}

/// RFC 9110 §5.6.2
pub(super) const fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// RFC 9110 §5.5: the bytes that a field value may have. Control characters other than the tab are invalid.
pub(super) const fn is_field_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
}

pub(super) fn fate(name: &[u8], value: &[u8]) -> Fate {
    let valid =
        !name.is_empty() && name.iter().all(|&byte| is_tchar(byte)) && value.iter().all(|&byte| is_field_text(byte));
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match name.len() {
        _ if !valid => Fate::Drop,
        4 if is("date") => Fate::Date,
        27 if is("access-control-allow-origin") => Fate::Origin,
        7 if is("upgrade") => Fate::Upgrade,
        10 if is("connection") || is("keep-alive") => Fate::Ignore,
        14 if is("content-length") => Fate::Ignore,
        17 if is("transfer-encoding") => Fate::Ignore,
        _ => Fate::Send,
    }
}

pub(super) fn push_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
