//! Records on their way to a domain.

use super::super::wire::{self, Event};
use super::ShardLink;
use super::call::{Cargo, Queued, Sending};
use super::calls::{RemoteCalls, TICKET_BIT};
use super::line::{Known, Line};
use crate::abi::manifest::RouteDecl;
use crate::domain::call::SocketEvent;
use crate::domain::ring::PushError;

impl RemoteCalls {
    /// Sends what the ring takes; once a batch.
    pub fn flush(&mut self) {
        self.former.iter_mut().for_each(Line::tell_drained);
        let Some(mut line) = self.current.take() else { return };
        let nothing = self.sending.is_none() && self.queue.is_empty() && self.forgotten.is_empty() && !self.draining;
        let nothing = nothing && self.gone.is_empty();
        if nothing && !line.link.has_done() {
            self.current = Some(line);
            return;
        }
        if let Err(error) = line.link.tell_done() {
            line.end(&error.to_string());
        }
        while !line.broken {
            if self.sending.is_none()
                && let Some(key) = self.gone.pop()
            {
                self.sending = Some(encode_gone(key));
            } else if self.sending.is_none()
                && !self.draining
                && let Some(queued) = self.queue.pop_front()
            {
                line.begin(queued.ticket);
                self.sending = Some(self.encode(&mut line, queued));
            } else if self.sending.is_none()
                && let Some(key) = self.forgotten.pop()
            {
                self.sending = Some(self.encode_forgotten(&mut line, key));
            }
            let Some(sending) = &mut self.sending else { break };
            match push(&mut line.link, sending) {
                Ok(()) => self.sent(),
                Err(PushError::Full) => break,
                Err(error) => line.end(&error.to_string()),
            }
        }
        if self.draining && self.sending.is_none() {
            line.tell_drained();
        }
        if line.link.producer.publish() {
            line.link.producer.wake();
        }
        self.current = Some(line);
    }

    /// The record under way is in the ring. The request of a handler that may decline is kept until the answer.
    fn sent(&mut self) {
        let Some(Sending { queued: Some(queued), .. }) = self.sending.take() else { return };
        if let Cargo::Request { route, request } = queued.cargo
            && let Some(pending) = self.pending.get_mut(&queued.ticket)
            && pending.hold.instance().manifest().routes.get(route).is_some_and(RouteDecl::is_fallback)
        {
            pending.kept = Some(request);
        }
    }

    fn encode(&mut self, line: &mut Line, queued: Queued) -> Sending {
        let Queued { ticket, instance, short, .. } = queued;
        let (mut fixed, mut body) = (Vec::with_capacity(512), Vec::new());
        match &queued.cargo {
            Cargo::Request { route, request } => {
                let view = request.view();
                // Routes are counted by C's int.
                let route = u32::try_from(*route).unwrap_or(u32::MAX);
                wire::request_head(&mut fixed, ticket, instance, route, short, view.bytes);
                match line.link.requests.lend(view.body) {
                    Some(place) => {
                        wire::lend(&mut fixed, place);
                        line.link.lent.insert(ticket, place);
                    }
                    None => body.extend_from_slice(view.body),
                }
            }
            Cargo::Socket { index, socket, events } => {
                let (key, session) = (socket.key(), socket.session());
                let index = u32::try_from(*index).unwrap_or(u32::MAX);
                wire::socket_head(&mut fixed, ticket, instance, index, short, key);
                let number = socket.number();
                let ends = matches!(events.last(), Some(SocketEvent::Close));
                let gone = !socket.is_open();
                if gone && !ends {
                    self.gone.push(key);
                }
                // From here on it runs, as far as can be known here.
                if let Some(pending) = self.pending.get_mut(&ticket) {
                    pending.since_ms = self.now_ms;
                }
                let known = Known { spoke_ms: self.now_ms, gone, ends };
                let is_new = line.known.insert(key, known).is_none();
                if is_new && !matches!(events.first(), Some(SocketEvent::Open)) {
                    wire::push_event(&mut body, &Event::Known { session, number, last: socket.last_kind() });
                }
                for event in events {
                    let event = match event {
                        SocketEvent::Open => Event::Open { session, number },
                        SocketEvent::Message { kind, payload } => {
                            socket.received(*kind);
                            Event::Message { kind: *kind, bytes: payload }
                        }
                        SocketEvent::Close => Event::Close { gone: !socket.is_open() },
                    };
                    wire::push_event(&mut body, &event);
                }
            }
        }
        Sending { ticket, queued: Some(queued), fixed, body, sent: 0 }
    }

    /// Has the domain's process let go of a socket, by an event that calls nothing and whose answer nobody waits for.
    fn encode_forgotten(&mut self, line: &mut Line, key: u64) -> Sending {
        self.tickets += 1;
        let ticket = self.tickets | TICKET_BIT;
        line.late.insert(ticket);
        let (mut fixed, mut body) = (Vec::with_capacity(64), Vec::new());
        wire::socket_head(&mut fixed, ticket, 0, 0, true, key);
        wire::push_event(&mut body, &Event::Forget);
        Sending { ticket, queued: None, fixed, body, sent: 0 }
    }
}

/// Has the domain's process learn, while callbacks of a socket may be running, that its connection is gone.
fn encode_gone(key: u64) -> Sending {
    let mut fixed = Vec::with_capacity(16);
    wire::gone(&mut fixed, key);
    Sending { ticket: 0, queued: None, fixed, body: Vec::new(), sent: 0 }
}

/// Pushes what is left of a record; what does not fit into one goes ahead in parts.
fn push(link: &mut ShardLink, sending: &mut Sending) -> Result<(), PushError> {
    let mut part = Vec::with_capacity(16);
    wire::part_head(&mut part, sending.ticket);
    let room = link.record_bytes_max.saturating_sub(sending.fixed.len());
    if room == 0 {
        return Err(PushError::TooLarge);
    }
    loop {
        let rest = sending.body.get(sending.sent..).unwrap_or_default();
        if rest.len() <= room {
            return link.producer.try_push(&[&sending.fixed, rest]);
        }
        let piece = rest.get(..(rest.len() - room).min(link.record_bytes_max - part.len())).unwrap_or_default();
        link.producer.try_push(&[&part, piece])?;
        sending.sent += piece.len();
    }
}
