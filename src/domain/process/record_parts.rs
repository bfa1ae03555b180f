//! The parts of the records in the rings: numbers, blocks, addresses, header fields and places of bodies. Sans-IO.

use super::arena::ExtentRange;
use crate::proto::ws::Kind;
use std::net::IpAddr;

/// Limit on the header fields of an answer.
pub(super) const HEADERS_MAX: usize = 1024;

pub(super) mod kind {
    pub(in super::super) const REQUEST: u8 = 2;
    pub(in super::super) const SOCKET: u8 = 3;
    pub(in super::super) const ANSWER: u8 = 4;
    pub(in super::super) const FAULT: u8 = 5;
    pub(in super::super) const IDLE: u8 = 6;
    pub(in super::super) const SEND: u8 = 7;
    pub(in super::super) const CLOSE: u8 = 8;
    pub(in super::super) const REQUEST_LENT: u8 = 9;
    pub(in super::super) const ANSWER_LENT: u8 = 10;
    pub(in super::super) const DONE: u8 = 11;
    pub(in super::super) const GONE: u8 = 12;
    pub(in super::super) const SOCKET_LENT: u8 = 14;
    pub(in super::super) const SEND_LENT: u8 = 15;
    pub(in super::super) const RETURNED: u8 = 16;
    pub(in super::super) const DECLINED: u8 = 13;
    pub(in super::super) const TURN: u8 = 17;
    pub(in super::super) const ANSWER_FILE: u8 = 20;
    pub(in super::super) const JOIN: u8 = 18;
    pub(in super::super) const LEAVE: u8 = 19;
    pub(in super::super) const PUBLISH: u8 = 22;
    pub(in super::super) const PUBLISH_LENT: u8 = 23;
    pub(in super::super) const BUFFERED: u8 = 24;
    pub(in super::super) const WAITS: u8 = 25;
}

/// The place of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body<'a> {
    /// In the record.
    Here(&'a [u8]),
    /// In the memory beside the rings.
    Lent(ExtentRange),
}

/// The header fields of an answer, read one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Headers<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) count: usize,
}

impl<'a> Headers<'a> {
    pub(super) fn parse(reader: &mut Reader<'a>) -> Option<Self> {
        let count = usize::from(reader.u16()?);
        let all = reader.bytes;
        for _ in 0..count {
            reader.block()?;
            reader.block()?;
        }
        let bytes = all.get(..all.len() - reader.bytes.len())?;
        (count <= HEADERS_MAX).then_some(Self { bytes, count })
    }

    /// The name and the value of each field.
    pub(super) fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        let mut reader = Reader { bytes: self.bytes };
        (0..self.count).map_while(move |_| Some((reader.block()?, reader.block()?)))
    }
}

/// Reads numbers and blocks; `None` where they don't fit.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn kind(&mut self) -> Option<Kind> {
        match self.u8()? {
            0 => Some(Kind::Text),
            1 => Some(Kind::Binary),
            _ => None,
        }
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    /// The rest of a record: its body, or the body's place.
    pub(super) fn body(&mut self, here: bool) -> Option<Body<'a>> {
        if here {
            return Some(Body::Here(self.rest()));
        }
        let place = ExtentRange { offset: self.u64()?, bytes: self.u64()? };
        self.bytes.is_empty().then_some(Body::Lent(place))
    }

    pub(super) fn address(&mut self) -> Option<Option<IpAddr>> {
        Some(match self.u8()? {
            0 => None,
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(self.take(4)?).ok()?)),
            16 => Some(IpAddr::from(<[u8; 16]>::try_from(self.take(16)?).ok()?)),
            _ => return None,
        })
    }

    /// The start of an answer, after its ticket.
    pub(super) fn answer_head(&mut self) -> Option<(u32, u16, Headers<'a>)> {
        let (ran_us, status) = (self.u32()?, self.u16()?);
        let count = usize::from(self.u16()?);
        let all = self.bytes;
        for _ in 0..count {
            self.block()?;
            self.block()?;
        }
        let bytes = all.get(..all.len() - self.bytes.len())?;
        let valid = (200..=599).contains(&status) && count <= HEADERS_MAX;
        valid.then_some((ran_us, status, Headers { bytes, count }))
    }

    pub(super) fn block(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.take(length)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }
}

pub(super) fn push_block(out: &mut Vec<u8>, bytes: &[u8]) {
    push_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// The length of a block, which follows it.
pub(super) fn push_length(out: &mut Vec<u8>, bytes: usize) {
    // A record is smaller than its ring, which is far below 4 GiB.
    out.extend_from_slice(&u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes());
}

/// The length of an address, 0 for none, and the address.
pub(super) fn push_address(out: &mut Vec<u8>, address: Option<IpAddr>) {
    match address {
        None => out.push(0),
        Some(IpAddr::V4(address)) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        Some(IpAddr::V6(address)) => {
            out.push(16);
            out.extend_from_slice(&address.octets());
        }
    }
}
