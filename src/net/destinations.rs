//! The destinations to which modules may connect: the list of `--allow-net`.
//!
//! Networks and names do not include addresses that lead to this machine or to a cloud's metadata services, because an operator
//! who writes `0.0.0.0/0` or a name means other machines. An entry that is such an address itself, or a network within their
//! ranges, grants them.

use crate::proto::forwarded::{contains, network};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The destinations that `--allow-net` grants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reach {
    /// No connections.
    #[default]
    Nothing,
    /// Sockets of all kinds, to anywhere.
    Everything,
    /// TCP to these destinations.
    Listed(Vec<Destination>),
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The domain to which the destination is granted; `None`: all domains.
    domain: Option<String>,
    target: Target,
    /// The port; `None`: every port.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Network(IpAddr, u8),
    Name(String),
}

/// The text is not a destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "--allow-net {0}: write ADDRESS:PORT, NETWORK/BITS:PORT or NAME:PORT, with [] around IPv6 and * for each port, and DOMAIN= \
     before it for one domain; or true for everything"
)]
pub struct DestinationError(String);

/// Ranges whose addresses must be named one by one: this machine, links, and the services by which clouds tell their machines
/// secrets.
const NAMED_V4: [(Ipv4Addr, u8); 6] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(100, 100, 100, 200), 32),
    (Ipv4Addr::new(192, 0, 0, 192), 32),
];
const NAMED_V6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::UNSPECIFIED, 128),
    (Ipv6Addr::LOCALHOST, 128),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128),
];
/// Ranges of IPv6 addresses that contain an IPv4 address, and how many bits precede it: mapped and compatible addresses, NAT64
/// (RFC 6052, RFC 8215), 6to4 (RFC 3056).
const EMBEDDING: [(Ipv6Addr, u8, u32); 5] = [
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, 96),
    (Ipv6Addr::UNSPECIFIED, 96, 96),
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96, 96),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, 96),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 16),
];

impl Reach {
    /// Parses the entries of the list. An entry that means yes or no is the switch that `--allow-net` was earlier.
    ///
    /// # Errors
    /// An entry is neither a switch nor a destination.
    pub fn read<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Self, DestinationError> {
        let (mut listed, mut everything) = (Vec::new(), false);
        for text in texts {
            match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "y" | "t" | "1" => everything = true,
                "false" | "no" | "off" | "n" | "f" | "0" => {}
                _ => listed.push(destination(text).ok_or_else(|| DestinationError(text.to_owned()))?),
            }
        }
        Ok(match (everything, listed.is_empty()) {
            (true, _) => Self::Everything,
            (false, true) => Self::Nothing,
            (false, false) => Self::Listed(listed),
        })
    }

    /// Whether a module of `domain` may connect to `address`. `is_own` returns whether an address is one of this machine's.
    /// `resolve` returns the addresses of a name, and may wait.
    #[must_use]
    pub fn allows(
        &self,
        domain: &str,
        address: SocketAddr,
        is_own: impl Fn(IpAddr) -> bool,
        resolve: impl Fn(&str) -> Vec<IpAddr>,
    ) -> bool {
        let all = match self {
            Self::Nothing => return false,
            Self::Everything => return true,
            Self::Listed(all) => all,
        };
        let ip = address.ip().to_canonical();
        let to_be_named = [Some(ip), embedded_in(ip)].into_iter().flatten().any(|ip| must_be_named(ip) || is_own(ip));
        let mut found = all.iter().filter(|one| {
            one.domain.as_deref().is_none_or(|name| name == domain)
                && one.port.is_none_or(|port| port == address.port())
        });
        found.any(|one| match &one.target {
            Target::Network(network, bits) => {
                contains(*network, *bits, ip) && (!to_be_named || names_address(*network, *bits))
            }
            // `localhost` is the only name that means this machine.
            Target::Name(name) if name.eq_ignore_ascii_case("localhost") => ip.is_loopback(),
            Target::Name(name) => !to_be_named && resolve(name).iter().any(|known| known.to_canonical() == ip),
        })
    }
}

/// Whether the network is a single address, or lies in one of the ranges whose addresses must be named.
fn names_address(network: IpAddr, bits: u8) -> bool {
    let within = |range: IpAddr, range_bits| bits >= range_bits && contains(range, range_bits, network);
    bits == if network.is_ipv4() { 32 } else { 128 }
        || NAMED_V4.iter().any(|&(range, range_bits)| within(range.into(), range_bits))
        || NAMED_V6.iter().any(|&(range, range_bits)| within(range.into(), range_bits))
}

fn must_be_named(ip: IpAddr) -> bool {
    NAMED_V4.iter().any(|&(range, bits)| contains(range.into(), bits, ip))
        || NAMED_V6.iter().any(|&(range, bits)| contains(range.into(), bits, ip))
}

/// The IPv4 address that an IPv6 address contains.
fn embedded_in(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = ip else { return None };
    let &(_, _, before) = EMBEDDING.iter().find(|&&(range, bits, _)| contains(range.into(), bits, ip))?;
    Some(Ipv4Addr::from_bits((v6.to_bits() << before >> 96) as u32).into())
}

fn destination(text: &str) -> Option<Destination> {
    let (domain, place) = text.split_once('=').map_or((None, text), |(domain, place)| (Some(domain), place));
    let (target, port) = place.rsplit_once(':')?;
    let port = if port == "*" { None } else { Some(port.parse().ok().filter(|port| *port > 0)?) };
    let domain = domain.map(str::to_owned);
    if domain.as_deref() == Some("") {
        return None;
    }
    // Brackets enclose either the address alone, or the network.
    let plain = match target.strip_prefix('[') {
        Some(rest) => {
            let (address, bits) = rest.split_once(']')?;
            format!("{address}{bits}")
        }
        None if target.contains(':') => return None,
        None => target.to_owned(),
    };
    let target = match network(&plain) {
        // The network is made canonical, like each address that is compared with it.
        Some((address, bits)) if address.is_ipv6() && address.to_canonical().is_ipv4() => {
            Target::Network(address.to_canonical(), bits.checked_sub(96)?)
        }
        Some((address, bits)) => Target::Network(address, bits),
        None if is_name(target) => Target::Name(target.to_owned()),
        None => return None,
    };
    Some(Destination { domain, target, port })
}

/// Whether a text can be the name of a machine. The last label of a name is not a number (RFC 3696 §2), so `10.0.0.300` is an
/// error.
fn is_name(text: &str) -> bool {
    let part = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    text.len() <= 253
        && text.strip_suffix('.').unwrap_or(text).split('.').all(part)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(texts: &[&str], domain: &str, address: &str) -> bool {
        let own = |ip: IpAddr| ip.to_string() == "10.0.0.1";
        let resolve = |name: &str| match name {
            "api.example" => vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
            "rebound.example" => vec!["169.254.169.254".parse().unwrap(), "127.0.0.1".parse().unwrap()],
            _ => Vec::new(),
        };
        Reach::read(texts.iter().copied()).unwrap().allows(domain, address.parse().unwrap(), own, resolve)
    }

    #[test]
    fn what_is_listed_is_granted_and_nothing_else() {
        for (text, address, expected) in [
            ("192.0.2.1:443", "192.0.2.1:443", true),
            ("192.0.2.1:443", "192.0.2.1:80", false),
            ("192.0.2.1:443", "192.0.2.2:443", false),
            ("192.0.2.1:443", "[::ffff:192.0.2.1]:443", true),
            ("[::ffff:192.0.2.0/120]:443", "192.0.2.9:443", true),
            ("192.0.2.1:*", "192.0.2.1:1", true),
            ("10.0.0.0/8:5432", "10.255.1.2:5432", true),
            ("10.0.0.0/8:5432", "11.0.0.1:5432", false),
            ("[2001:db8::]/32:53", "[2001:db8:1::1]:53", true),
            ("[2001:db8::1]:53", "[2001:db8::2]:53", false),
            ("api.example:443", "192.0.2.7:443", true),
            ("api.example:443", "[2001:db8::7]:443", true),
            ("api.example:443", "192.0.2.8:443", false),
            ("other.example:443", "192.0.2.7:443", false),
        ] {
            assert_eq!(allows(&[text], "shop", address), expected, "{text} {address}");
        }
        assert!(allows(&["shop=192.0.2.1:443"], "shop", "192.0.2.1:443"));
        assert!(!allows(&["shop=192.0.2.1:443"], "shopping", "192.0.2.1:443"));
        assert!(allows(&["true"], "shop", "127.0.0.1:1") && !allows(&["false"], "shop", "192.0.2.1:1"));
    }

    #[test]
    fn this_machine_and_what_clouds_tell_must_be_named() {
        let everywhere = ["0.0.0.0/0:*", "[::]/0:*", "rebound.example:*"];
        for address in [
            "127.0.0.1:80",
            "127.8.8.8:80",
            "0.0.0.0:80",
            "169.254.169.254:80",
            "168.63.129.16:80",
            "100.100.100.200:80",
            "192.0.0.192:80",
            "10.0.0.1:80",
            "[::1]:80",
            "[::]:80",
            "[fe80::1]:80",
            "[fd00:ec2::254]:80",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:169.254.169.254]:80",
            "[::127.0.0.1]:80",
            "[64:ff9b::169.254.169.254]:80",
            "[64:ff9b:1::169.254.169.254]:80",
            "[64:ff9b::10.0.0.1]:80",
            "[64:ff9b:1:2::127.0.0.1]:80",
            "[2002:a00:1::1]:80",
            "[2002:7f00:1::1]:80",
            "[2002:a9fe:a9fe::1]:80",
        ] {
            assert!(!allows(&everywhere, "shop", address), "{address}");
            assert!(allows(&[address], "shop", address), "{address}");
        }
        assert!(allows(&everywhere, "shop", "10.0.0.2:80") && allows(&everywhere, "shop", "[2001:db8::1]:80"));
        assert!(
            allows(&["127.0.0.0/8:80"], "shop", "127.0.0.9:80") && !allows(&["127.0.0.0/7:80"], "shop", "127.0.0.9:80")
        );
        assert!(allows(&["localhost:80"], "shop", "[::1]:80") && !allows(&["localhost:80"], "shop", "10.0.0.2:80"));
    }

    #[test]
    fn texts_that_are_no_destination_are_refused() {
        for text in [
            "",
            "443",
            "192.0.2.1",
            "192.0.2.1:",
            "192.0.2.1:0",
            "192.0.2.1:65536",
            "192.0.2.1/33:1",
            "10.0.0.300:1",
            "::1:80",
            "[::1:80",
            "=192.0.2.1:1",
            "a b:1",
            "-:x",
            "a..b:1",
            "[::ffff:0:0]/90:1",
            "http://a:1",
        ] {
            assert!(Reach::read([text]).is_err(), "{text}");
        }
    }
}
