//! What a life writes to its standard output and error: lines for the server's log.
//!
//! It writes to a pipe of its own, which a thread copies. With the server's own descriptors it could cut the log short,
//! overwrite it, or change how the server itself writes there.

use crossbeam::channel::{Receiver, bounded};
use std::io::{self, PipeReader, PipeWriter, Read};
use std::thread;
use std::time::{Duration, Instant};

/// Longer lines are cut into several: modules' lines are cut far below (see `domain::output`).
const LINE_BYTES_MAX: usize = 16 * 1024;
/// More in one second is dropped, and said to be.
const BYTES_MAX: usize = 8 * 1024 * 1024;
const SECOND: Duration = Duration::from_secs(1);

/// Starts the thread that copies what comes. Returns where to write, and what is disconnected once all has been copied.
pub(super) fn collect(domain: &str) -> io::Result<(PipeWriter, Receiver<()>)> {
    let (reader, writer) = io::pipe()?;
    let (over, ended) = bounded(0);
    let domain = domain.to_owned();
    thread::Builder::new().name("domain-output".to_owned()).spawn(move || {
        copy(reader, &domain);
        drop(over);
    })?;
    Ok((writer, ended))
}

fn copy(mut reader: PipeReader, domain: &str) {
    let mut lines = Lines::default();
    let mut rate = Rate { since: Instant::now(), bytes: 0, dropped: 0 };
    let mut chunk = [0; LINE_BYTES_MAX];
    loop {
        match reader.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => break,
            Ok(count) => lines.add(chunk.get(..count).unwrap_or_default()),
        }
        print(&lines.take(), &mut rate, domain);
    }
    print(&lines.rest(), &mut rate, domain);
    rate.tell(domain);
}

fn print(mut text: &[u8], rate: &mut Rate, domain: &str) {
    if rate.since.elapsed() >= SECOND {
        rate.tell(domain);
        *rate = Rate { since: Instant::now(), bytes: 0, dropped: 0 };
    }
    if rate.bytes + text.len() > BYTES_MAX {
        rate.dropped += text.len();
        return;
    }
    rate.bytes += text.len();
    // Not by way of `Stderr`, whose lock the server's own threads need.
    let stderr = io::stderr();
    while !text.is_empty() {
        match rustix::io::write(&stderr, text) {
            Ok(count) => text = text.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return, // A log that can't be written ends nothing.
        }
    }
}

/// What was printed within a second.
struct Rate {
    since: Instant,
    bytes: usize,
    dropped: usize,
}

impl Rate {
    fn tell(&self, domain: &str) {
        if self.dropped > 0 {
            tracing::warn!(
                "{} bytes that domain {domain} printed are dropped: more than {BYTES_MAX} in a second",
                self.dropped
            );
        }
    }
}

/// Whole lines of what comes in pieces.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The lines that are complete; one that is too long is, too.
    fn take(&mut self) -> Vec<u8> {
        let end = self.bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut lines: Vec<u8> = self.bytes.drain(..end).collect();
        if self.bytes.len() >= LINE_BYTES_MAX {
            lines.append(&mut self.rest());
        }
        lines
    }

    /// What is left, as a line.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.bytes);
        if !rest.is_empty() {
            rest.push(b'\n');
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_whole_and_have_an_end() {
        let mut lines = Lines::default();
        lines.add(b"one\ntw");
        assert_eq!(lines.take(), b"one\n");
        lines.add(b"o");
        assert_eq!(lines.take(), b"");
        lines.add(b"\nthree");
        assert_eq!(lines.take(), b"two\n");
        for _ in 0..3 {
            lines.add(&[b'x'; LINE_BYTES_MAX]);
            let taken = lines.take();
            assert!(taken.len() <= 2 * LINE_BYTES_MAX + 1 && taken.ends_with(b"x\n"), "{}", taken.len());
        }
        assert_eq!(lines.rest(), b"");
        lines.add(b"end");
        assert_eq!(lines.rest(), b"end\n");
    }
}
