//! Messages between a domain's process and the process of one call: packets of a socket pair (`SOCK_SEQPACKET` in unix(7)).
//!
//! A message is a packet with two lengths, followed by packets with the bytes of its two parts. Packets keep their
//! boundaries, so the packet that reports the sender's death (`ENDED`) is recognised wherever the message breaks off.

use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::io;
use std::os::fd::BorrowedFd;

/// The bytes of a packet, including its kind. A socket holds a few packets.
pub(super) const PACKET_BYTES: usize = 56 * 1024;
/// Limit, in bytes, on the first part.
const META_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Limit, in bytes, on the second part.
const BODY_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

const LENGTHS: u8 = 1;
const DATA: u8 = 2;
const ENDED: u8 = 3;

/// An outgoing message.
pub(super) struct Outgoing<'a> {
    /// The parts to send, in order.
    parts: Vec<&'a [u8]>,
    /// The next packet; empty: it is not made yet.
    packet: Vec<u8>,
    flags: SendFlags,
}

impl<'a> Outgoing<'a> {
    /// A message with the parts `meta` and `body`, the second one in pieces; `waits`: sending waits while the socket is
    /// full.
    pub(super) fn new(meta: &'a [u8], body: &[&'a [u8]], waits: bool) -> Self {
        let body_bytes: u64 = body.iter().map(|piece| piece.len() as u64).sum();
        let mut packet = vec![LENGTHS];
        packet.extend_from_slice(&(meta.len() as u64).to_le_bytes());
        packet.extend_from_slice(&body_bytes.to_le_bytes());
        let mut parts: Vec<&[u8]> = [meta].into_iter().chain(body.iter().copied()).collect();
        parts.reverse();
        let flags = if waits { SendFlags::NOSIGNAL } else { SendFlags::NOSIGNAL | SendFlags::DONTWAIT };
        Self { parts, packet, flags }
    }

    /// An empty message.
    pub(super) fn nothing() -> Self {
        Self { parts: Vec::new(), packet: Vec::new(), flags: SendFlags::empty() }
    }

    /// Whether the whole message is sent.
    pub(super) fn is_done(&self) -> bool {
        self.packet.is_empty() && self.parts.iter().all(|part| part.is_empty())
    }

    /// Sends one more packet.
    ///
    /// # Errors
    /// Errors of send(2); `WouldBlock` unless sending waits.
    pub(super) fn step(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        if self.packet.is_empty() {
            self.packet.push(DATA);
            while self.packet.len() < PACKET_BYTES
                && let Some(part) = self.parts.last_mut()
            {
                let (now, later) = part.split_at(part.len().min(PACKET_BYTES - self.packet.len()));
                self.packet.extend_from_slice(now);
                *part = later;
                if later.is_empty() {
                    self.parts.pop();
                }
            }
        }
        loop {
            match send(socket, &self.packet, self.flags) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => {
                    self.packet.clear();
                    return Ok(());
                }
            }
        }
    }
}

/// Sends a whole message, and waits while the socket is full.
pub(super) fn send_all(socket: BorrowedFd<'_>, meta: &[u8], body: &[u8]) -> io::Result<()> {
    let mut outgoing = Outgoing::new(meta, &[body], true);
    while !outgoing.is_done() {
        outgoing.step(socket)?;
    }
    Ok(())
}

/// Reports the death of the messages' sender, with its description.
pub(super) fn send_ended(socket: BorrowedFd<'_>, how: &[u8]) -> io::Result<()> {
    let packet: Vec<u8> = [ENDED].into_iter().chain(how.iter().copied().take(PACKET_BYTES - 1)).collect();
    send(socket, &packet, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The content of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A part of a message.
    Some,
    /// The end of a message: both of its parts.
    Message(Vec<u8>, Vec<u8>),
    /// The sender has died; the description.
    Ended(Vec<u8>),
}

/// A packet does not belong to a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// An incoming message.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    lengths: Option<(usize, usize)>,
    meta: Vec<u8>,
    body: Vec<u8>,
}

impl Incoming {
    /// Takes the next packet.
    pub(super) fn take(&mut self, packet: &[u8]) -> Result<Received, Malformed> {
        match (packet.split_first().ok_or(Malformed)?, self.lengths) {
            ((&ENDED, how), _) => return Ok(Received::Ended(how.to_vec())),
            ((&LENGTHS, lengths), None) => {
                let number = |range| Some(u64::from_le_bytes(<[u8; 8]>::try_from(lengths.get(range)?).ok()?));
                let (Some(meta), Some(body)) = (number(0..8), number(8..16)) else { return Err(Malformed) };
                if meta > META_BYTES_MAX || body > BODY_BYTES_MAX || lengths.len() != 16 {
                    return Err(Malformed);
                }
                let length = |bytes| usize::try_from(bytes).map_err(|_| Malformed);
                self.lengths = Some((length(meta)?, length(body)?));
            }
            ((&DATA, bytes), Some((meta, body))) if bytes.len() <= meta + body - self.meta.len() - self.body.len() => {
                let (first, second) = bytes.split_at(bytes.len().min(meta - self.meta.len()));
                self.meta.extend_from_slice(first);
                self.body.extend_from_slice(second);
            }
            _ => return Err(Malformed),
        }
        if self.lengths != Some((self.meta.len(), self.body.len())) {
            return Ok(Received::Some);
        }
        self.lengths = None;
        Ok(Received::Message(std::mem::take(&mut self.meta), std::mem::take(&mut self.body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::AsFd;

    #[test]
    fn messages_of_every_size_arrive_and_what_is_none_is_refused() {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let mut incoming = Incoming::default();
        for (meta, body) in [(0, 0), (1, 0), (0, 1), (10, PACKET_BYTES), (PACKET_BYTES * 2, 3), (7, 1_000_003)] {
            let bytes = |count: usize| (0..count).map(|at| at as u8).collect::<Vec<u8>>();
            let (meta, body) = (bytes(meta), bytes(body));
            let (first, second) = body.split_at(body.len() / 3);
            let mut outgoing = Outgoing::new(&meta, &[first, second], false);
            let mut packet = vec![0; PACKET_BYTES + 1];
            let got = loop {
                if !outgoing.is_done() {
                    outgoing.step(one.as_fd()).unwrap();
                }
                let count = rustix::io::read(&other, &mut packet).unwrap();
                match incoming.take(&packet[..count]).unwrap() {
                    Received::Some => {}
                    whole => break whole,
                }
            };
            assert_eq!(got, Received::Message(meta, body));
        }
        for bad in [&[][..], &[9], &[DATA, 1], &[LENGTHS], &[LENGTHS, 255, 255], &[[LENGTHS; 17]; 1].concat()] {
            assert_eq!(Incoming::default().take(bad), Err(Malformed), "{bad:?}");
        }
        let mut broken = Incoming::default();
        let lengths: Vec<u8> = [vec![LENGTHS], 2_u64.to_le_bytes().to_vec(), 3_u64.to_le_bytes().to_vec()].concat();
        assert_eq!(broken.take(&lengths), Ok(Received::Some));
        assert_eq!(broken.take(&lengths), Err(Malformed), "a message begins within another message");
        assert_eq!(broken.take(&[DATA, 1, 2, 3]), Ok(Received::Some));
        assert_eq!(broken.take(&[DATA, 1, 2, 3]), Err(Malformed), "too long");
        send_ended(one.as_fd(), b"how").unwrap();
        let mut packet = [0; 16];
        let count = rustix::io::read(&other, &mut packet).unwrap();
        assert_eq!(broken.take(&packet[..count]), Ok(Received::Ended(b"how".to_vec())));
    }
}
