//! Content codings (RFC 9110 §8.4.1), and the choice of one that a client accepts (RFC 9110 §12.5.3).

use super::head::RequestView;

/// A content coding that the server can make or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    /// RFC 7932
    Brotli,
    /// RFC 8878
    Zstd,
    /// RFC 1952
    Gzip,
}

impl Coding {
    /// All codings, ordered by the size of the answers; the coding with the smallest answers is first.
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// The coding's name in `Content-Encoding`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The suffix of files with this coding.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }

    /// The coding with this name; `x-gzip` is gzip (RFC 9110 §8.4.1.3).
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            2 if is("br") => Some(Self::Brotli),
            4 if is("zstd") => Some(Self::Zstd),
            4 if is("gzip") => Some(Self::Gzip),
            6 if is("x-gzip") => Some(Self::Gzip),
            _ => None,
        }
    }
}

/// The client's weights, in thousandths: one for each of [`Coding::ALL`], and one for an answer without a coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Weights {
    codings: [u16; 3],
    /// The weight of `identity`, if the client states one.
    identity: Option<u16>,
}

/// Reads all `Accept-Encoding` fields of a request. A missing or empty field means that the client wants no coding.
fn weights(view: &RequestView<'_>) -> Weights {
    let (mut named, mut identity, mut any) = ([None; 3], None, None);
    for (_, value) in view.headers().filter(|(name, _)| name.eq_ignore_ascii_case(b"accept-encoding")) {
        for item in value.split(|byte| *byte == b',') {
            let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let Some(name) = parts.next().filter(|name| !name.is_empty()) else { continue };
            let weight = parts.find_map(weight_of).unwrap_or(1000);
            if name == b"*" {
                any = Some(weight);
            } else if name.eq_ignore_ascii_case(b"identity") {
                identity = Some(weight);
            } else if let Some(coding) = Coding::of(name)
                && let Some(place) = Coding::ALL.iter().position(|known| *known == coding)
                && let Some(place) = named.get_mut(place)
            {
                *place = Some(weight);
            }
        }
    }
    // §12.5.3: `*` stands for each coding that is not named; without `*`, only identity is acceptable.
    Weights { codings: named.map(|weight| weight.or(any).unwrap_or(0)), identity }
}

/// `q=0.8` in thousandths (RFC 9110 §12.4.2). An unreadable weight counts as 0, because the client did not ask clearly.
fn weight_of(parameter: &[u8]) -> Option<u16> {
    let (name, value) = parameter.split_at_checked(2)?;
    if !name.eq_ignore_ascii_case(b"q=") {
        return None;
    }
    let mut weight = 0;
    for (at, byte) in value.iter().enumerate() {
        match (at, byte) {
            (0, b'0' | b'1') => weight = u16::from(byte - b'0') * 1000,
            (1, b'.') => {}
            (2..=4, b'0'..=b'9') => weight += u16::from(byte - b'0') * [100, 10, 1][at - 2],
            _ => return Some(0),
        }
    }
    Some(if weight <= 1000 { weight } else { 0 })
}

/// The offered coding with the highest weight; `None` for an answer without a coding. `offered` says which codings there are.
/// Between equal weights the first in the order of `preferred` wins, and any coding wins over none.
#[must_use]
pub fn choose_coding(
    view: &RequestView<'_>,
    preferred: &[Coding],
    mut offered: impl FnMut(Coding) -> bool,
) -> Option<Coding> {
    let weights = weights(view);
    let weight = |coding: Coding| {
        let place = Coding::ALL.iter().position(|known| *known == coding);
        place.and_then(|place| weights.codings.get(place)).copied().unwrap_or(0)
    };
    let mut candidates: Vec<Coding> = preferred.iter().copied().filter(|coding| weight(*coding) > 0).collect();
    // The sort is stable: the order of preference decides between equal weights.
    candidates.sort_by_key(|coding| std::cmp::Reverse(weight(*coding)));
    let wanted = |coding: &Coding| weights.identity.is_none_or(|identity| weight(*coding) >= identity);
    candidates.into_iter().take_while(wanted).find(|coding| offered(*coding))
}

#[cfg(test)]
mod tests {
    use super::super::head::{Head, Limits};
    use super::*;

    fn chosen(fields: &[&str]) -> Option<&'static str> {
        let fields: String = fields.iter().map(|value| format!("Accept-Encoding: {value}\r\n")).collect();
        let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let any = usize::MAX;
        let limits = Limits { head_bytes_max: any, headers_max: 20, uri_bytes_max: any, body_bytes_max: any };
        let mut head = Head::default();
        head.parse(text.as_bytes(), &limits).unwrap();
        let view = RequestView { head: &head, bytes: text.as_bytes(), body: &[], shared: None, peer: None };
        choose_coding(&view, &[Coding::Zstd, Coding::Brotli, Coding::Gzip], |_| true).map(Coding::name)
    }

    #[test]
    fn rfc_9110_12_5_3_the_heaviest_coding_is_chosen() {
        for (fields, expected) in [
            (&["gzip"][..], Some("gzip")),
            (&["gzip, br, zstd"], Some("zstd")),
            (&["gzip;q=1.0, br;q=0.5"], Some("gzip")),
            (&["br;q=0.2, gzip;q=0.9"], Some("gzip")),
            (&["GZIP;Q=0.5"], Some("gzip")),
            (&["x-gzip"], Some("gzip")),
            (&["*"], Some("zstd")),
            (&["*;q=0.5, zstd;q=0"], Some("br")),
            (&["identity;q=0.5, gzip;q=1"], Some("gzip")),
            (&["gzip", "br"], Some("br")),
            (&["gzip ; q=0.5"], Some("gzip")),
            // A coding that the client refuses, does not name, or likes less than the plain answer.
            (&[], None),
            (&[""], None),
            (&["identity"], None),
            (&["deflate"], None),
            (&["gzip;q=0"], None),
            (&["gzip;q=0.000, *;q=0"], None),
            (&["gzip;q=0.3, identity;q=0.7"], None),
            (&["*;q=0"], None),
            (&["gzip;q=nine"], None),
            (&["gzip;q=1.001"], None),
            (&["gzip;q=2"], None),
            (&["gzip;q=1.000"], Some("gzip")),
        ] {
            assert_eq!(chosen(fields), expected, "{fields:?}");
        }
    }
}
