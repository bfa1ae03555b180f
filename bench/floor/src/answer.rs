//! The answer that a load generator expects, and the line of figures that it prints at the end.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::time::Duration;

/// The first answer, which all others must equal but for the bytes of its date.
pub struct Expected {
    pub bytes: Vec<u8>,
    date: Range<usize>,
}

impl Expected {
    /// Writes `requests` and reads the first answer.
    pub fn first(stream: &mut (impl Read + Write), requests: &[u8]) -> io::Result<Self> {
        stream.write_all(requests)?;
        stream.flush()?;
        let mut bytes = Vec::new();
        loop {
            let mut more = [0; 4096];
            let count = stream.read(&mut more)?;
            if count == 0 {
                return Err(io::Error::other("the server has closed the first connection"));
            }
            bytes.extend_from_slice(&more[..count]);
            let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
            let Some(head) = text.find("\r\n\r\n") else { continue };
            if !text.starts_with("http/1.1 200 ") {
                return Err(io::Error::other(format!("the first answer is {text}")));
            }
            let length: usize = field(&text[..head], "content-length")
                .and_then(|range| text[range].trim().parse().ok())
                .ok_or_else(|| io::Error::other("the first answer has no Content-Length"))?;
            if bytes.len() >= head + 4 + length {
                bytes.truncate(head + 4 + length);
                return Ok(Self { date: field(&text[..head], "date").unwrap_or(0..0), bytes });
            }
        }
    }

    /// Whether an answer may have `bytes` at `offset`.
    pub fn fits(&self, offset: usize, bytes: &[u8]) -> bool {
        let end = offset + bytes.len();
        let same = |from: usize, to: usize| {
            let (from, to) = (from.max(offset), to.min(end));
            from >= to || self.bytes[from..to] == bytes[from - offset..to - offset]
        };
        same(0, self.date.start) && same(self.date.end, self.bytes.len())
    }
}

/// Where the value of a field is in `head`, which is in lower case.
fn field(head: &str, name: &str) -> Option<Range<usize>> {
    let start = head.find(&format!("\r\n{name}:"))? + name.len() + 3;
    Some(start..head[start..].find("\r\n").map_or(head.len(), |length| start + length))
}

/// The answers that a connection waits for.
#[derive(Default)]
pub struct Progress {
    /// Answers that are still to come.
    pub left: usize,
    /// Bytes of the next answer that have come.
    offset: usize,
}

impl Progress {
    /// Takes received bytes. Returns the number of answers that these bytes complete; `None` if they belong to no expected answer.
    pub fn take(&mut self, expected: &Expected, mut bytes: &[u8]) -> Option<usize> {
        let mut complete = 0;
        while !bytes.is_empty() {
            let (here, rest) = bytes.split_at(bytes.len().min(expected.bytes.len() - self.offset));
            if self.left == 0 || !expected.fits(self.offset, here) {
                return None;
            }
            self.offset += here.len();
            if self.offset == expected.bytes.len() {
                self.offset = 0;
                self.left -= 1;
                complete += 1;
            }
            bytes = rest;
        }
        Some(complete)
    }
}

/// Microseconds of a latency, as both load generators keep it.
pub fn microseconds(of: Duration) -> u32 {
    u32::try_from(of.as_micros()).unwrap_or(u32::MAX)
}

/// Prints the line `RESULT requests microseconds errors p50 p99 p99.9`.
pub fn report(answered: usize, errors: usize, took: Duration, latencies: &mut [u32]) {
    latencies.sort_unstable();
    let percentile = |of: f64| {
        let rank = (latencies.len() as f64 * of) as usize;
        latencies.get(rank.min(latencies.len().saturating_sub(1))).copied().unwrap_or(0)
    };
    let (p50, p99, p999) = (percentile(0.5), percentile(0.99), percentile(0.999));
    println!("RESULT {answered} {} {errors} {p50} {p99} {p999}", took.as_micros());
}
