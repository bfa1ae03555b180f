//! Records about streamed bodies. The bytes themselves lie in the memory of streams, which both sides access.

use super::super::record_parts::{HEADERS_MAX, Headers, Reader, push_address, push_block};
use std::net::IpAddr;

/// The kinds of these records; no other record has them.
const CALL: u8 = 32;
const OVER: u8 = 33;
const ROOM: u8 = 34;
const CANCEL: u8 = 35;
const BEGIN: u8 = 40;
const NOTICE: u8 = 41;
const RETURNED: u8 = 42;

/// Stands for an unknown length.
const UNKNOWN: u64 = u64::MAX;
/// Stands for the slot of the call itself.
const OWN_SLOT: u32 = u32::MAX;

/// To a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::domain::process) enum StreamToDomain<'a> {
    /// A request to a `CWEB_STREAM` route: its head, packed, and the slot for its body.
    Call {
        ticket: u64,
        instance: u64,
        route: u32,
        slot: u32,
        length: Option<u64>,
        expects_continue: bool,
        peer: Option<IpAddr>,
        head: &'a [u8],
    },
    /// The answer in this slot has ended.
    Over { slot: u32 },
    /// There is room again in this slot, for a writer that does not wait.
    Room { slot: u32 },
    /// A call is canceled, for the reason with this number.
    Cancel { ticket: u64, reason: u8 },
}

/// From a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::domain::process) enum StreamToServer<'a> {
    /// A handler begins its answer, in this slot for answers or in its call's own slot.
    Begin { ticket: u64, slot: Option<u32>, status: u16, length: Option<u64>, headers: Headers<'a> },
    /// The pipes of a call or an answer have changed.
    Notice { ticket: u64, wants_body: bool },
    /// A handler that streams its answer has returned; its run time.
    Returned { ticket: u64, ran_us: u32 },
}

fn start(out: &mut Vec<u8>, kind: u8, number: u64) {
    out.push(kind);
    out.extend_from_slice(&number.to_le_bytes());
}

impl<'a> StreamToDomain<'a> {
    /// Appends the record.
    pub(in crate::domain::process) fn push(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Call { ticket, instance, route, slot, length, expects_continue, peer, head } => {
                start(out, CALL, ticket);
                out.extend_from_slice(&instance.to_le_bytes());
                out.extend_from_slice(&route.to_le_bytes());
                out.extend_from_slice(&slot.to_le_bytes());
                out.extend_from_slice(&length.unwrap_or(UNKNOWN).to_le_bytes());
                out.push(u8::from(expects_continue));
                push_address(out, peer);
                push_block(out, head);
            }
            Self::Over { slot } => start(out, OVER, u64::from(slot)),
            Self::Room { slot } => start(out, ROOM, u64::from(slot)),
            Self::Cancel { ticket, reason } => {
                start(out, CANCEL, ticket);
                out.push(reason);
            }
        }
    }

    /// Reads the part of a record after its kind and number.
    pub(super) fn parse(kind: u8, number: u64, reader: &mut Reader<'a>) -> Option<Self> {
        Some(match kind {
            CALL => Self::Call {
                ticket: number,
                instance: reader.u64()?,
                route: reader.u32()?,
                slot: reader.u32()?,
                length: Some(reader.u64()?).filter(|length| *length != UNKNOWN),
                expects_continue: reader.u8()? != 0,
                peer: reader.address()?,
                head: reader.block()?,
            },
            OVER => Self::Over { slot: u32::try_from(number).ok()? },
            ROOM => Self::Room { slot: u32::try_from(number).ok()? },
            CANCEL => Self::Cancel { ticket: number, reason: reader.u8()? },
            _ => return None,
        })
    }
}

/// Appends the beginning of an answer: see [`StreamToServer::Begin`].
pub(in crate::domain::process) fn begin(
    out: &mut Vec<u8>,
    ticket: u64,
    slot: Option<u32>,
    status: u16,
    length: Option<u64>,
    headers: &[(&[u8], &[u8])],
) {
    start(out, BEGIN, ticket);
    out.extend_from_slice(&slot.unwrap_or(OWN_SLOT).to_le_bytes());
    out.extend_from_slice(&status.to_le_bytes());
    out.extend_from_slice(&length.unwrap_or(UNKNOWN).to_le_bytes());
    let count = headers.len().min(HEADERS_MAX);
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
    for (name, value) in headers.iter().take(count) {
        push_block(out, name);
        push_block(out, value);
    }
}

/// Appends a notice.
pub(in crate::domain::process) fn notice(out: &mut Vec<u8>, ticket: u64, wants_body: bool) {
    start(out, NOTICE, ticket);
    out.push(u8::from(wants_body));
}

/// Appends the return of a handler.
pub(in crate::domain::process) fn stream_returned(out: &mut Vec<u8>, ticket: u64, ran_us: u32) {
    start(out, RETURNED, ticket);
    out.extend_from_slice(&ran_us.to_le_bytes());
}

impl<'a> StreamToServer<'a> {
    /// Reads the part of a record after its kind and number.
    pub(super) fn parse(kind: u8, ticket: u64, reader: &mut Reader<'a>) -> Option<Self> {
        Some(match kind {
            BEGIN => {
                let slot = Some(reader.u32()?).filter(|slot| *slot != OWN_SLOT);
                let status = Some(reader.u16()?).filter(|status| (200..=599).contains(status))?;
                let length = Some(reader.u64()?).filter(|length| *length != UNKNOWN);
                let headers = Headers::parse(reader)?;
                reader.bytes.is_empty().then_some(())?;
                Self::Begin { ticket, slot, status, length, headers }
            }
            NOTICE => Self::Notice { ticket, wants_body: reader.u8()? != 0 },
            RETURNED => Self::Returned { ticket, ran_us: reader.u32()? },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ToDomain, ToServer};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_to_the_domain_come_back(
            ticket: u64, instance: u64, route: u32, slot: u32, length in proptest::option::of(0..u64::MAX),
            expects_continue: bool, reason: u8, peer: Option<IpAddr>, head in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let head = head.as_slice();
            for record in [
                StreamToDomain::Call { ticket, instance, route, slot, length, expects_continue, peer, head },
                StreamToDomain::Over { slot },
                StreamToDomain::Room { slot },
                StreamToDomain::Cancel { ticket, reason },
            ] {
                let mut bytes = Vec::new();
                record.push(&mut bytes);
                prop_assert_eq!(ToDomain::read(&bytes).unwrap(), ToDomain::Stream(record.clone()));
                prop_assert!(ToDomain::read(&bytes[..bytes.len() - 1]).is_err());
            }
        }

        #[test]
        fn records_to_the_server_come_back(
            ticket: u64, slot in proptest::option::of(0..u32::MAX), status in 200..600_u16,
            length in proptest::option::of(0..u64::MAX), ran_us: u32, wants_body: bool,
            headers in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..9), proptest::collection::vec(any::<u8>(), 0..9)), 0..5),
        ) {
            let headers: Vec<(&[u8], &[u8])> = headers.iter().map(|(name, value)| (&name[..], &value[..])).collect();
            let mut bytes = Vec::new();
            begin(&mut bytes, ticket, slot, status, length, &headers);
            let Ok(ToServer::Stream(StreamToServer::Begin { headers: found, .. })) = ToServer::read(&bytes) else { panic!() };
            prop_assert_eq!(found.iter().collect::<Vec<_>>(), headers);
            prop_assert!(ToServer::read(&bytes[..bytes.len() - 1]).is_err());
            bytes.push(0);
            prop_assert!(ToServer::read(&bytes).is_err(), "nothing may follow");
            let mut bytes = Vec::new();
            notice(&mut bytes, ticket, wants_body);
            prop_assert_eq!(ToServer::read(&bytes).unwrap(), ToServer::Stream(StreamToServer::Notice { ticket, wants_body }));
            let mut bytes = Vec::new();
            stream_returned(&mut bytes, ticket, ran_us);
            prop_assert_eq!(ToServer::read(&bytes).unwrap(), ToServer::Stream(StreamToServer::Returned { ticket, ran_us }));
        }

        #[test]
        fn whatever_a_domain_sends_is_read_or_refused(kind in 30..50_u8, mut bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(first) = bytes.first_mut() { *first = kind; }
            let _ = (ToServer::read(&bytes), ToDomain::read(&bytes));
        }
    }

    #[test]
    fn a_status_that_is_none_is_refused() {
        for status in [0, 100, 199, 600] {
            let mut bytes = Vec::new();
            begin(&mut bytes, 1, None, status, None, &[]);
            assert!(ToServer::read(&bytes).is_err(), "{status}");
        }
    }
}
