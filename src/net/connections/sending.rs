//! Sends what is queued on one connection, through TLS if that stands in between.

use super::{Closing, ConnIo};
use crate::net::outbox::{Outbox, SEND_BYTES_MAX, Sent};
use crate::net::sys;
use crate::net::tls::Tls;
use std::io;
use std::os::fd::RawFd;

impl ConnIo {
    /// Sends until all is sent, the socket takes no more or a disk is to be waited for.
    pub(super) fn send(&mut self, sealing: &mut Vec<u8>) -> io::Result<Sent> {
        match &mut self.tls {
            None => self.outbox.flush(self.fd),
            Some(tls) => send_sealed(self.fd, tls, &mut self.outbox, self.closing == Closing::AfterFlush, sealing),
        }
    }
}

/// Like [`Outbox::flush`] through TLS.
fn send_sealed(
    fd: RawFd,
    tls: &mut Tls,
    outbox: &mut Outbox,
    closing: bool,
    sealing: &mut Vec<u8>,
) -> io::Result<Sent> {
    let mut left = SEND_BYTES_MAX;
    loop {
        if tls.len() == 0
            && let Some(range) = outbox.cold()
        {
            return Ok(Sent::Cold(range));
        }
        let bytes = tls.next(outbox, closing, sealing).map_err(io::Error::other)?;
        if bytes.is_empty() {
            return Ok(Sent::All);
        }
        if left == 0 {
            return Ok(Sent::Blocked);
        }
        match sys::send(fd, bytes) {
            Ok(count) => {
                tls.advance(count);
                left = left.saturating_sub(count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Sent::Blocked),
            Err(error) => return Err(error),
        }
    }
}
