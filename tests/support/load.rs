//! Clients that ask for one path all the time, to see that nobody is refused meanwhile.

#![allow(dead_code, unreachable_pub, missing_docs)] // Each test file uses its part.

use crate::support::{Client, Server, eventually};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between an answer and the next request: short beside what takes time when a process is replaced, and long enough that the
/// clients leave the machine to what they watch.
const PAUSE: Duration = Duration::from_millis(2);

/// One test at a time: with its clients, each keeps both cores of a small machine busy, and the compiler needs its share.
static TURN: Mutex<()> = Mutex::new(());

pub fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks for a path on connections of its own.
pub struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// On `threads` connections; an answer is right if its text is one of `texts`.
    pub fn start(server: &Server, path: &'static str, texts: &'static [&'static str], threads: usize) -> Self {
        let (stop, good) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let run = |_| {
            let (stop, good, mut client) = (Arc::clone(&stop), Arc::clone(&good), server.connect());
            std::thread::spawn(move || ask(&mut client, path, texts, &stop, &good))
        };
        let threads = (0..threads).map(run).collect();
        Self { stop, good, threads }
    }

    /// Waits until it has gone on.
    pub fn goes_on(&self) {
        let before = self.good.load(Ordering::Relaxed);
        eventually("there is load", || self.good.load(Ordering::Relaxed) > before + 10);
    }

    /// How many answers were right, and those that were not.
    pub fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let bad = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        (self.good.load(Ordering::Relaxed), bad)
    }

    /// Ends it: nothing was wrong.
    pub fn end(self) {
        self.goes_on();
        let (_, bad) = self.stop();
        assert_eq!(bad, Vec::<String>::new());
    }
}

fn ask(client: &mut Client, path: &str, texts: &[&str], stop: &AtomicBool, good: &AtomicUsize) -> Vec<String> {
    let mut bad = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let response = client.get(path);
        if response.status == 200 && texts.contains(&response.text().as_str()) {
            good.fetch_add(1, Ordering::Relaxed);
        } else {
            bad.push(response.head + &String::from_utf8_lossy(&response.body));
        }
        std::thread::sleep(PAUSE);
    }
    bad
}
