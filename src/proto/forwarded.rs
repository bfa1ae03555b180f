//! The client's address behind proxies: `X-Forwarded-For` and `Forwarded` (RFC 7239).
//!
//! Each proxy appends the address from which it received the request. Only entries appended by trusted proxies count, so the
//! list is read from its end. The first address from the end that belongs to no trusted proxy is the client's. A client can
//! forge every entry before that address. So the split into entries must not depend on anything before them: a quotation mark
//! that the client has opened and not closed would otherwise take a proxy's entry into the client's own.

use std::net::IpAddr;

/// The header field that the trusted proxies write. Only this field is read: a proxy passes the other one on as the client sent
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardedBy {
    /// `X-Forwarded-For`
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239)
    Forwarded,
}

impl ForwardedBy {
    /// The field's name, in lower case.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }

    /// The field with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::XForwardedFor, Self::Forwarded].into_iter().find(|by| name.eq_ignore_ascii_case(by.field()))
    }
}

/// The trusted proxies: their networks, and the field that they write.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies {
    networks: Vec<(IpAddr, u8)>,
    unix: bool,
    by: ForwardedBy,
}

/// The text does not name proxies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is neither an IP address, nor a network like 10.0.0.0/8, nor unix")]
pub struct ProxyError(String);

impl TrustedProxies {
    /// Reads networks (`10.0.0.0/8`), addresses, and `unix` for every peer of a Unix socket.
    ///
    /// # Errors
    /// A text is none of these.
    pub fn read<'t>(texts: impl IntoIterator<Item = &'t str>, by: ForwardedBy) -> Result<Self, ProxyError> {
        let mut all = Self { by, ..Self::default() };
        for text in texts {
            if text == "unix" {
                all.unix = true;
            } else {
                all.networks.push(network(text).ok_or_else(|| ProxyError(text.to_owned()))?);
            }
        }
        Ok(all)
    }

    fn trusts(&self, peer: Option<IpAddr>) -> bool {
        match peer {
            Some(address) => self.networks.iter().any(|&(network, bits)| contains(network, bits, address)),
            None => self.unix,
        }
    }

    /// The client of a request with `headers` that came from `peer` (`None`: over a Unix socket). `None`: the client is not
    /// known.
    pub fn client<'h>(
        &self,
        peer: Option<IpAddr>,
        headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
    ) -> Option<IpAddr> {
        if !self.trusts(peer) {
            return peer;
        }
        let field = self.by.field().as_bytes();
        let values: Vec<&[u8]> =
            headers.filter(|(name, _)| name.eq_ignore_ascii_case(field)).map(|(_, value)| value).collect();
        let quotes = self.by == ForwardedBy::Forwarded;
        let mut client = peer;
        for element in values.into_iter().rev().flat_map(|value| Elements { rest: Some(value), quotes }) {
            client = Some(match self.by {
                ForwardedBy::XForwardedFor => node(element)?,
                ForwardedBy::Forwarded => node(&forwarded_for(element)?)?,
            });
            if !self.trusts(client) {
                break;
            }
        }
        client
    }
}

/// Reads an address or a network, `10.0.0.0/8`; the number is that of its bits.
pub fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(most), |bits| bits.parse().ok().filter(|bits| *bits <= most))?;
    Some((address, bits))
}

/// An address as a number of 128 bits; the address fills the high bits.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Whether the network of `bits` bits has `address`.
#[must_use]
pub fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    let differing = number(network) ^ number(address);
    network.is_ipv4() == address.is_ipv4() && (bits == 0 || differing >> (128 - u32::from(bits)) == 0)
}

/// The elements of a list (RFC 9110 §5.6.1), the last one first.
struct Elements<'a> {
    rest: Option<&'a [u8]>,
    /// Whether the list may have quoted strings; commas in them do not separate elements. `X-Forwarded-For` has none.
    quotes: bool,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let text = self.rest?;
            let comma = if self.quotes { last_comma(text) } else { text.iter().rposition(|&byte| byte == b',') };
            self.rest = comma.and_then(|at| text.get(..at));
            let element = text.get(comma.map_or(0, |at| at + 1)..).unwrap_or_default().trim_ascii();
            if !element.is_empty() {
                return Some(element);
            }
        }
    }
}

/// The last comma of `text` outside of the quoted strings that end behind it.
fn last_comma(text: &[u8]) -> Option<usize> {
    let mut quoted = false;
    for (at, &byte) in text.iter().enumerate().rev() {
        match byte {
            b'"' => {
                let before = text.get(..at).unwrap_or_default();
                let escapes = before.iter().rev().take_while(|&&byte| byte == b'\\').count();
                // Within a quoted string an escaped mark is text; outside of one a mark ends a string.
                quoted = !quoted || escapes % 2 == 1;
            }
            b',' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Splits `text` at the first `by` outside quotation marks: the part before it and the part behind it.
fn divide(text: &[u8], by: u8) -> (&[u8], Option<&[u8]>) {
    let (mut quoted, mut escaped) = (false, false);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == by && !quoted => return (text.get(..at).unwrap_or_default(), text.get(at + 1..)),
            _ => {}
        }
    }
    (text, None)
}

/// The value of `for` in an element of `Forwarded`, without its quotation marks.
fn forwarded_for(element: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Some(element);
    while let Some(text) = rest {
        let (pair, next) = divide(text, b';');
        rest = next;
        let Some(equals) = pair.iter().position(|&byte| byte == b'=') else { continue };
        let (name, value) = pair.split_at(equals);
        if name.trim_ascii().eq_ignore_ascii_case(b"for") {
            let value = value.get(1..)?.trim_ascii();
            let inner = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
            return Some(inner.iter().copied().filter(|&byte| byte != b'\\').collect());
        }
    }
    None
}

/// RFC 7239 §6: an address, with a port or not. `None` for `unknown`, hidden identifiers and what is malformed.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let address: IpAddr = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (port.is_empty() || port.starts_with(':')).then_some(())?;
            IpAddr::V6(address.parse().ok()?)
        }
        None => match text.parse() {
            Ok(address) => address,
            Err(_) => IpAddr::V4(text.split_once(':')?.0.parse().ok()?),
        },
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(by: ForwardedBy, peer: &str, values: &[&str]) -> Option<String> {
        let proxies = TrustedProxies::read(["10.0.0.0/8", "::1", "unix"], by).unwrap();
        let headers = values.iter().map(|value| (by.field().as_bytes(), value.as_bytes()));
        proxies.client(peer.parse().ok(), headers).map(|address| address.to_string())
    }

    #[test]
    fn the_last_address_that_is_no_proxys_counts() {
        for (peer, values, expected) in [
            ("192.0.2.1", &["198.51.100.7"][..], Some("192.0.2.1")),
            ("10.0.0.1", &[], Some("10.0.0.1")),
            ("10.0.0.1", &["198.51.100.7"], Some("198.51.100.7")),
            ("10.0.0.1", &["1.1.1.1, 198.51.100.7, 10.9.9.9"], Some("198.51.100.7")),
            ("10.0.0.1", &["1.1.1.1", "198.51.100.7:4711"], Some("198.51.100.7")),
            ("10.0.0.1", &["10.1.1.1,10.2.2.2"], Some("10.1.1.1")),
            ("10.0.0.1", &["1.1.1.1, unknown"], None),
            ("10.0.0.1", &["1.1.1.1, nonsense:1:2"], None),
            ("10.0.0.1", &[" , ,"], Some("10.0.0.1")),
            ("10.0.0.1", &["\", 198.51.100.7"], Some("198.51.100.7")),
            ("10.0.0.1", &["\"1.1.1.1, 198.51.100.7, 10.9.9.9"], Some("198.51.100.7")),
            ("::1", &["2001:db8::7"], Some("2001:db8::7")),
            ("::1", &["[2001:db8::7]:80"], Some("2001:db8::7")),
            ("::1", &["::ffff:198.51.100.7"], Some("198.51.100.7")),
            ("", &["198.51.100.7"], Some("198.51.100.7")),
        ] {
            assert_eq!(client(ForwardedBy::XForwardedFor, peer, values).as_deref(), expected, "{peer} {values:?}");
        }
    }

    #[test]
    fn rfc_7239_4() {
        for (values, expected) in [
            (&["for=192.0.2.60;proto=http;by=203.0.113.43"][..], Some("192.0.2.60")),
            (&["For=\"[2001:db8:cafe::17]:4711\""], Some("2001:db8:cafe::17")),
            (&["for=192.0.2.43, for=198.51.100.17"], Some("198.51.100.17")),
            (&["for=\"a,b\";x=\";for=1.1.1.1\", for=10.1.1.1"], None),
            // What a client has sent before a proxy's entry does not change that entry.
            (&["for=1.1.1.1;x=\", for=198.51.100.17"], Some("198.51.100.17")),
            (&["for=\", for=198.51.100.17"], Some("198.51.100.17")),
            (&["for=1.1.1.1;x=\"\\, for=\"[2001:db8::17]:80\";proto=http"], Some("2001:db8::17")),
            (&["x=\"", "for=198.51.100.17, for=10.1.1.1"], Some("198.51.100.17")),
            (&["for=1.1.1.1, for=198.51.100.17;x=\"a,\\\",b\", for=10.1.1.1"], Some("198.51.100.17")),
            (&["for=_hidden"], None),
            (&["by=10.1.1.1"], None),
            (&["for="], None),
        ] {
            assert_eq!(client(ForwardedBy::Forwarded, "10.0.0.1", values).as_deref(), expected, "{values:?}");
        }
    }

    #[test]
    fn networks_are_read_or_refused() {
        for good in ["0.0.0.0/0", "::/0", "192.0.2.1", "2001:db8::/32", "10.0.0.0/32"] {
            assert!(TrustedProxies::read([good], ForwardedBy::default()).is_ok(), "{good}");
        }
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "host", "10.0.0.0/8/8"] {
            assert!(TrustedProxies::read([bad], ForwardedBy::default()).is_err(), "{bad}");
        }
        let all = TrustedProxies::read(["0.0.0.0/0"], ForwardedBy::default()).unwrap();
        assert!(all.trusts("255.1.1.1".parse().ok()) && !all.trusts("::1".parse().ok()) && !all.trusts(None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_fine(value in proptest::collection::vec(any::<u8>(), 0..80), text in "[for=\",;:\\[\\]0-9. \\\\]{0,80}") {
            for by in [ForwardedBy::XForwardedFor, ForwardedBy::Forwarded] {
                let proxies = TrustedProxies::read(["0.0.0.0/0", "::/0"], by).unwrap();
                for value in [value.as_slice(), text.as_bytes()] {
                    let _ = proxies.client("10.0.0.1".parse().ok(), [(by.field().as_bytes(), value)].into_iter());
                }
            }
        }
    }
}
