//! Sends what is queued on one connection, through TLS if that stands in between.

use super::{Closing, ConnIo};
use crate::net::outbox::Sent;
use std::io;

impl ConnIo {
    /// Sends until all is sent, the socket takes no more, it has had its `share` of bytes or a disk is to be waited for.
    pub(super) fn send(&mut self, sealing: &mut Vec<u8>, share: usize) -> io::Result<Sent> {
        match &mut self.tls {
            None => self.outbox.flush(self.fd, share),
            Some(tls) => tls.send(self.fd, &mut self.outbox, self.closing == Closing::AfterFlush, sealing, share),
        }
    }
}
