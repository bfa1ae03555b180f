//! Clients and a peer for the measurements of WebSockets.
//!
//! ```text
//! websocket-bench peer PORT                            a tokio-tungstenite server: echoes at /echo, sends to all at any other path
//! websocket-bench echo PORT PATH SOCKETS BYTES SECONDS messages, and the p50 and p99 of a round trip in µs
//! websocket-bench broadcast PORT PATH SOCKETS MESSAGES frames that came, those that are missing, and the milliseconds it took
//! websocket-bench room PORT PATH SOCKETS MESSAGES AHEAD  the same for a room that is full: says "open", waits for a line, and sends
//! websocket-bench idle PORT PATH COUNT                 opens so many, WebSockets or with PATH - plain ones that asked once; then waits
//! ```

mod client;
mod peer;

use client::{Socket, connect};
use mio::{Events, Interest, Poll, Token};
use std::io::{self, Read};
use std::time::{Duration, Instant};

/// Nothing that is measured here takes as long.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["peer", port] => peer::run(number(port)),
        ["echo", port, path, sockets, bytes, seconds] => {
            echo(number(port), path, number(sockets), number(bytes), Duration::from_secs(number(seconds)))
        }
        ["broadcast", port, path, sockets, messages] => {
            broadcast(number(port), path, number(sockets), number(messages))
        }
        ["room", port, path, sockets, messages, ahead] => {
            room(number(port), path, number(sockets), number(messages), number(ahead))
        }
        ["idle", port, path, count] => idle(number(port), path, number(count)),
        _ => Err(io::Error::other("see the head of main.rs for what it does")),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number that fits"))
}

/// Each socket has one message under way.
fn echo(port: u16, path: &str, sockets: usize, bytes: usize, time: Duration) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let message = vec![b'x'; bytes];
    let mut sockets = register(&poll, connect(port, path, sockets)?)?;
    let mut sent = vec![Instant::now(); sockets.len()];
    for socket in &mut sockets {
        socket.send(&message)?;
    }
    let (begin, mut events, mut round_trips) = (Instant::now(), Events::with_capacity(1024), Vec::new());
    while begin.elapsed() < time {
        poll.poll(&mut events, Some(PATIENCE))?;
        for Token(at) in events.iter().map(|event| event.token()) {
            for _ in 0..sockets[at].receive()? {
                let now = Instant::now();
                round_trips.push(now.duration_since(sent[at]));
                sent[at] = now;
                sockets[at].send(&message)?;
            }
        }
    }
    round_trips.sort_unstable();
    let at = |share: usize| round_trips.get(round_trips.len() * share / 100).map_or(0, Duration::as_micros);
    println!("{} {} {}", round_trips.len(), at(50), at(99));
    Ok(())
}

/// The first socket says something, and all hear it.
fn broadcast(port: u16, path: &str, count: usize, messages: usize) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut sockets = register(&poll, connect(port, path, count)?)?;
    // A few at a time: what is measured is the server, and not how much it can hold back.
    say(&mut poll, &mut sockets, messages, 8)
}

/// As `broadcast`, after all sockets have heard a message, and a line on the standard input: the caller measures the time in
/// between. Each socket may miss `ahead` - 1 messages before the next one is sent.
fn room(port: u16, path: &str, count: usize, messages: usize, ahead: usize) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut sockets = register(&poll, connect(port, path, count)?)?;
    let mut events = Events::with_capacity(1024);
    let mut came = 0;
    while came < count {
        // A server may put a socket into the room after it has answered the handshake.
        came = 0;
        sockets[0].send(b"is everybody here?")?;
        loop {
            poll.poll(&mut events, Some(if came < count { Duration::from_secs(2) } else { Duration::from_millis(200) }))?;
            if events.is_empty() {
                break;
            }
            for Token(at) in events.iter().map(|event| event.token()) {
                came += sockets[at].receive()?;
            }
        }
    }
    println!("open");
    io::stdin().read_line(&mut String::new())?;
    say(&mut poll, &mut sockets, messages, ahead)
}

fn say(poll: &mut Poll, sockets: &mut [Socket], messages: usize, ahead: usize) -> io::Result<()> {
    let count = sockets.len();
    let begin = Instant::now();
    let (mut events, mut came, wanted) = (Events::with_capacity(1024), 0, count * messages);
    for round in 0..messages {
        sockets[0].send(format!("message {round:08} to everybody, of sixty-four bytes with its number").as_bytes())?;
        let due = count * (round + 1).saturating_sub(ahead);
        while came < due || (round + 1 == messages && came < wanted) {
            poll.poll(&mut events, Some(PATIENCE))?;
            if events.is_empty() {
                break;
            }
            for Token(at) in events.iter().map(|event| event.token()) {
                came += sockets[at].receive()?;
            }
        }
    }
    println!("{came} {} {}", wanted - came, begin.elapsed().as_millis());
    Ok(())
}

fn idle(port: u16, path: &str, count: usize) -> io::Result<()> {
    let sockets = if path == "-" { client::asked_once(port, count)? } else { connect(port, path, count)? };
    println!("{} are open", sockets.len());
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn register(poll: &Poll, mut sockets: Vec<Socket>) -> io::Result<Vec<Socket>> {
    for (at, socket) in sockets.iter_mut().enumerate() {
        poll.registry().register(socket.stream(), Token(at), Interest::READABLE)?;
    }
    Ok(sockets)
}
