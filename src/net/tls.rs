//! TLS between a driver's sockets and the application, sans IO: rustls turns received bytes into plaintext, and the bytes of an
//! [`Outbox`] into records. This file has no sockets or threads, and reads a clock for one date only.
//!
//! A waiting connection holds rustls' keys and no buffer. Received bytes are decrypted in the shard's one receive buffer. Sent
//! bytes are sealed in a buffer that the shard's connections share; only a connection whose socket is full keeps the buffer.

use super::client_certificates::client_name;
use super::outbox::{Outbox, Sent};
use super::sys;
use crate::proto::http1::http_date;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{Error, ServerConfig};
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Bytes before the receive buffer for the start of a record whose end has not arrived. A record has at most 18 KiB (RFC 5246
/// §6.2.3). A `ClientHello` in several records may need more; a larger one than this is refused.
pub(super) const HEADROOM: usize = 32 * 1024;

/// Limit, in bytes, on the plaintext of a record (RFC 8446 §5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Sealing pauses when this many bytes of ciphertext wait for the socket; with the last record the ciphertext stays below 80
/// KiB.
const SEALED_BYTES_MAX: usize = 64 * 1024;

/// The answer to a client that speaks HTTP to a TLS port.
const HTTPS_ONLY: &str = "this port speaks HTTPS only: use https:// (or wss://) here\n";

const METHODS: [&[u8]; 9] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];

/// The answer to `request`, which is plain HTTP, at the time `now`.
fn https_only(request: &[u8], now: SystemTime) -> String {
    let date = http_date(now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    let (date, length) = (String::from_utf8_lossy(&date), HTTPS_ONLY.len());
    let body = if request.starts_with(b"HEAD") { "" } else { HTTPS_ONLY };
    format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nDate: {date}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

/// How connections of a listener are set up for TLS.
#[derive(Debug, Clone)]
pub struct Acceptor {
    /// Certificate, versions, tickets.
    pub(super) config: Arc<ServerConfig>,
    /// Limit on the time from the accept of a connection to the end of its handshake.
    pub(super) handshake_timeout: Duration,
}

/// The connection can't continue. Bytes made meanwhile, for instance an alert, are the last bytes sent on it.
#[derive(Debug)]
pub(super) struct Refused;

/// rustls' state of one connection.
pub(super) struct Session {
    rustls: UnbufferedServerConnection,
    /// The start of a record whose end has not arrived.
    rest: Vec<u8>,
    /// No byte has been received.
    fresh: bool,
    /// The handshake is done.
    open: bool,
    /// The peer has sent `close_notify`.
    ended: bool,
    /// The name of the client was delivered, or it has none.
    named: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("open", &self.open).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(acceptor: &Acceptor) -> Result<Self, Error> {
        let rustls = UnbufferedServerConnection::new(Arc::clone(&acceptor.config))?;
        Ok(Self { rustls, rest: Vec::new(), fresh: true, open: false, ended: false, named: false })
    }

    /// Whether the peer has announced that it will send no more.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes `count` bytes that were received into `buffer` after its first [`HEADROOM`] bytes. Calls `deliver` with their
    /// plaintext, never empty; with the first of it, also with the name in the client's certificate, if there is one. Appends
    /// the bytes for the peer to `made`.
    pub(super) fn receive(
        &mut self,
        buffer: &mut [u8],
        count: usize,
        made: &mut Vec<u8>,
        deliver: impl FnMut(&[u8], Option<&Arc<[u8]>>),
    ) -> Result<(), Refused> {
        let rest = std::mem::take(&mut self.rest);
        let start = HEADROOM.checked_sub(rest.len()).ok_or(Refused)?;
        let incoming = buffer.get_mut(start..HEADROOM + count).ok_or(Refused)?;
        incoming.get_mut(..rest.len()).ok_or(Refused)?.copy_from_slice(&rest);
        if std::mem::replace(&mut self.fresh, false) && looks_like_http(incoming) {
            made.extend_from_slice(https_only(incoming, SystemTime::now()).as_bytes());
            return Err(Refused);
        }
        let mut used = 0;
        if let Err(error) = self.process(incoming, &mut used, made, deliver) {
            tracing::debug!("TLS connection refused: {error}");
            self.alert(&error, incoming.get_mut(used..).unwrap_or_default(), made);
            return Err(Refused);
        }
        if !self.ended {
            self.rest = incoming.get(used..).unwrap_or_default().to_vec();
        }
        if self.rest.len() > HEADROOM { Err(Refused) } else { Ok(()) }
    }

    /// Counts in `used` how many bytes of `incoming` are processed.
    fn process(
        &mut self,
        incoming: &mut [u8],
        used: &mut usize,
        made: &mut Vec<u8>,
        mut deliver: impl FnMut(&[u8], Option<&Arc<[u8]>>),
    ) -> Result<(), Error> {
        loop {
            let ahead = incoming.get_mut(*used..).unwrap_or_default();
            let UnbufferedStatus { discard, state } = self.rustls.process_tls_records(ahead);
            *used += discard;
            let mut done = false;
            // The certificate can't be read while rustls lends the plaintext.
            let mut first = Vec::new();
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        *used += record.discard;
                        if !self.named {
                            first.extend_from_slice(record.payload);
                        } else if !record.payload.is_empty() {
                            deliver(record.payload, None);
                        }
                    }
                }
                ConnectionState::EncodeTlsData(data) => encode(data, made)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.ended = true,
                ConnectionState::WriteTraffic(_) => {
                    self.open = true;
                    done = true;
                }
                ConnectionState::BlockedHandshake | ConnectionState::Closed => done = true,
                // The server does not offer early data.
                _ => return Err(Error::General("an unexpected state".to_owned())),
            }
            if !first.is_empty() {
                self.named = true;
                let certificate = self.rustls.peer_certificates().and_then(<[_]>::first);
                let name = certificate.and_then(|certificate| client_name(certificate));
                deliver(&first, name.as_ref());
            }
            if done {
                return Ok(());
            }
        }
    }

    /// Appends the alert that rustls has for the peer after an error (RFC 8446 §6.2).
    fn alert(&mut self, error: &Error, incoming: &mut [u8], made: &mut Vec<u8>) {
        // Unreadable input has one alert, and must not be processed again for a second one. A readable message is processed
        // already, so its alert follows the bytes made from it.
        let unreadable = matches!(
            error,
            Error::InvalidMessage(_) | Error::PeerMisbehaved(_) | Error::PeerSentOversizedRecord | Error::DecryptError
        );
        // rustls counts from the start of the bytes not yet discarded, so it must get those bytes again.
        while let Ok(ConnectionState::EncodeTlsData(data)) = self.rustls.process_tls_records(incoming).state {
            if encode(data, made).is_err() || unreadable {
                return;
            }
        }
    }

    /// Seals bytes of `outbox`, up to [`SEALED_BYTES_MAX`] bytes of ciphertext.
    fn seal(&mut self, outbox: &mut Outbox, sealed: &mut Vec<u8>) -> Result<(), Error> {
        while !outbox.is_empty() && sealed.len() < SEALED_BYTES_MAX {
            if !sealed.is_empty() && outbox.cold().is_some() {
                break;
            }
            outbox.load().map_err(|error| Error::General(error.to_string()))?;
            let front = outbox.front();
            let record = front.get(..RECORD_BYTES_MAX).unwrap_or(front);
            let count = record.len();
            self.write(sealed, |traffic, room| traffic.encrypt(record, room))?;
            outbox.advance(count);
        }
        Ok(())
    }

    /// Appends the output of `write` with the session's keys, after any bytes that rustls must send first.
    fn write(
        &mut self,
        sealed: &mut Vec<u8>,
        write: impl Fn(&mut WriteTraffic<'_, ServerConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), Error> {
        loop {
            // See `alert`.
            let UnbufferedStatus { discard, state } = self.rustls.process_tls_records(&mut self.rest);
            let mut done = false;
            match state? {
                ConnectionState::EncodeTlsData(data) => encode(data, sealed)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    append(sealed, RECORD_BYTES_MAX + 512, |room| {
                        write(&mut traffic, room).map_err(|error| match error {
                            EncryptError::InsufficientSize(size) => Some(size),
                            EncryptError::EncryptExhausted => None,
                        })
                    })?;
                    done = true;
                }
                _ => return Err(Error::General("the session accepts no more plaintext".to_owned())),
            }
            self.rest.drain(..discard.min(self.rest.len()));
            if done {
                return Ok(());
            }
        }
    }
}

fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, into: &mut Vec<u8>) -> Result<(), Error> {
    append(into, 0, |room| {
        data.encode(room).map_err(|error| match error {
            EncodeError::InsufficientSize(size) => Some(size),
            EncodeError::AlreadyEncoded => None,
        })
    })
}

/// Appends the output of `write`, with `room` bytes of capacity at first and then as many as `write` asks for.
fn append(
    into: &mut Vec<u8>,
    mut room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> Result<(), Error> {
    let start = into.len();
    loop {
        into.resize(start + room, 0);
        match write(into.get_mut(start..).unwrap_or_default()) {
            Ok(count) => {
                into.truncate(start + count);
                return Ok(());
            }
            Err(Some(size)) if size.required_size > room => room = size.required_size,
            Err(_) => {
                into.truncate(start);
                return Err(Error::EncryptError);
            }
        }
    }
}

/// Whether a connection that begins with these bytes speaks HTTP: no TLS record begins with a letter (RFC 8446 §5.1).
fn looks_like_http(received: &[u8]) -> bool {
    METHODS.iter().any(|method| received.iter().zip(*method).all(|(a, b)| a == b))
}

/// The TLS side of one connection's sending half.
#[derive(Debug)]
pub(super) struct Tls {
    /// `None` while the driver uses the session, and after the session has failed.
    session: Option<Box<Session>>,
    /// Records that the socket has not taken, from `sent` on.
    sealed: Vec<u8>,
    sent: usize,
    /// `close_notify` is among the sealed bytes.
    notified: bool,
}

impl Tls {
    pub(super) fn new(session: Session) -> Self {
        Self { session: Some(Box::new(session)), sealed: Vec::new(), sent: 0, notified: false }
    }

    pub(super) fn take_session(&mut self) -> Option<Box<Session>> {
        self.session.take()
    }

    pub(super) fn put_session(&mut self, session: Box<Session>) {
        self.session = Some(session);
    }

    /// Whether the handshake is under way.
    pub(super) fn is_handshaking(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !session.open)
    }

    /// Whether the handshake is under way and the client has begun it.
    pub(super) fn is_greeted(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !session.open && !session.fresh)
    }

    /// Sends `bytes` unencrypted.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.sealed.extend_from_slice(bytes);
    }

    /// Sealed bytes that the socket has not taken; the bytes of the outbox are not counted.
    pub(super) fn len(&self) -> usize {
        self.sealed.len() - self.sent
    }

    /// Like [`Outbox::flush`] through TLS.
    pub(super) fn send(
        &mut self,
        fd: RawFd,
        outbox: &mut Outbox,
        closing: bool,
        sealing: &mut Vec<u8>,
        share: usize,
    ) -> io::Result<Sent> {
        let mut left = share;
        loop {
            if left == 0 && (self.len() > 0 || !outbox.is_empty()) {
                return Ok(Sent::Spent);
            }
            if self.len() == 0
                && let Some(range) = outbox.cold()
            {
                return Ok(Sent::Cold(range));
            }
            let bytes = self.next(outbox, closing, sealing).map_err(io::Error::other)?;
            if bytes.is_empty() {
                return Ok(Sent::All);
            }
            match sys::send(fd, bytes) {
                Ok(count) => {
                    self.advance(count);
                    left = left.saturating_sub(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Sent::Blocked),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next bytes for the socket; empty when there is nothing to send. Seals bytes of `outbox`, in a buffer from `spare` if
    /// there is one. If the connection is `closing`, the last bytes are `close_notify`.
    pub(super) fn next<'a>(
        &'a mut self,
        outbox: &mut Outbox,
        closing: bool,
        spare: &mut Vec<u8>,
    ) -> Result<&'a [u8], Error> {
        if self.len() == 0 {
            self.sealed.clear();
            self.sent = 0;
            self.fill(outbox, closing, spare)?;
        }
        Ok(self.sealed.get(self.sent..).unwrap_or_default())
    }

    fn fill(&mut self, outbox: &mut Outbox, closing: bool, spare: &mut Vec<u8>) -> Result<(), Error> {
        if self.sealed.capacity() < spare.capacity() {
            std::mem::swap(&mut self.sealed, spare);
        }
        match self.session.as_mut().filter(|session| session.open) {
            Some(session) => {
                session.seal(outbox, &mut self.sealed)?;
                if closing && outbox.is_empty() && !self.notified {
                    self.notified = true;
                    #[expect(clippy::redundant_closure_for_method_calls)] // The method is of one lifetime only.
                    session.write(&mut self.sealed, |traffic, room| traffic.queue_close_notify(room))?;
                }
            }
            // Without an open session no peer has the keys to read the queued bytes.
            None if closing => outbox.clear(),
            None => {}
        }
        if self.sealed.is_empty() {
            let sealed = std::mem::take(&mut self.sealed);
            if sealed.capacity() > spare.capacity() {
                *spare = sealed;
            }
        }
        Ok(())
    }

    /// Records that the socket has taken `count` bytes.
    pub(super) fn advance(&mut self, count: usize) {
        self.sent += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_told_from_tls() {
        assert!(looks_like_http(b"GET / HTTP/1.1\r\n"));
        assert!(looks_like_http(b"POST /"));
        assert!(looks_like_http(b"D"));
        assert!(!looks_like_http(b"\x16\x03\x01\x02\x00\x01"));
        assert!(!looks_like_http(b"GARBAGE"));
    }

    #[test]
    fn the_answer_to_plain_http_is_whole() {
        let text = https_only(b"GET / HTTP/1.1\r\n", SystemTime::UNIX_EPOCH);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(head.contains("\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"), "{head}");
        assert_eq!(https_only(b"HEAD / HTTP/1.1\r\n", SystemTime::UNIX_EPOCH), format!("{head}\r\n\r\n"));
    }
}
