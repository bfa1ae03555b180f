//! Prints the log lines, crashes and requests of a module as the server sends them.

use super::super::client::{Client, Opened, escaped};
use super::super::logs::{self, Line};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Prints the lines of one module, on a thread of its own, while the server sends them.
pub(super) struct Follower {
    module: String,
    /// Lines before this time are not shown, in milliseconds since 1970.
    since_ms: i64,
    /// Whether each line begins with the module's name.
    is_named: bool,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Whether the stream has ended.
    has_ended: AtomicBool,
    /// The id of the last line shown.
    last_id: AtomicI64,
    /// The last refusal of the server that was printed.
    refusal: Mutex<String>,
}

impl Follower {
    /// Starts to show the lines of `module` since `since_ms`, in milliseconds since 1970.
    pub(super) fn start(client: &Arc<Client>, module: &str, since_ms: i64, is_named: bool) -> Self {
        let mut follower = Self { module: module.to_owned(), since_ms, is_named, state: Arc::default() };
        follower.restart(client);
        follower
    }

    pub(super) fn module(&self) -> &str {
        &self.module
    }

    /// Whether the stream has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.state.has_ended.load(Ordering::Acquire)
    }

    /// Continues with the lines after the last one shown.
    pub(super) fn restart(&mut self, client: &Arc<Client>) {
        let (client, state) = (Arc::clone(client), Arc::clone(&self.state));
        let path = format!("/mgnt/{}/logs?requests=1&since_ms={}", escaped(&self.module), self.since_ms);
        let head =
            if self.is_named { format!("[{}]", super::super::versions::plain(&self.module)) } else { "|".to_owned() };
        state.has_ended.store(false, Ordering::Release);
        let show = move || {
            let is_over = follow(&client, &path, &head, &state);
            state.has_ended.store(is_over, Ordering::Release);
        };
        // Without a thread the lines are not shown, but everything else works.
        if let Err(error) = thread::Builder::new().name("lines".to_owned()).spawn(show) {
            println!("the lines of module {} are not shown: {error}", self.module);
        }
    }
}

/// Shows lines until the stream ends. Returns whether the stream should be restarted.
fn follow(client: &Client, path: &str, head: &str, state: &State) -> bool {
    let mut last_id = state.last_id.load(Ordering::Acquire);
    match client.events(path, last_id) {
        Ok(Opened::Stream(reader)) => {
            let print = |line: &Line| {
                // This command prints its deployments itself.
                if line.kind == "info" { Ok(()) } else { logs::write(head, line) }
            };
            let ended = logs::read(reader, &mut last_id, print);
            state.last_id.store(last_id, Ordering::Release);
            // An error means that the output has no reader, or that the stream is invalid.
            ended.is_ok()
        }
        Ok(Opened::Refused(answer)) if answer.status < 500 => {
            let text = client.refusal(&answer).text;
            let mut told = state.refusal.lock().unwrap_or_else(PoisonError::into_inner);
            if *told != text {
                println!("the module's log is not shown: {text}");
                *told = text;
            }
            false
        }
        Ok(Opened::Refused(_) | Opened::Finished) | Err(_) => true,
    }
}
