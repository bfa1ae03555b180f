//! The handlers that compute, as in `bench/run.d/bench.c` and `bench/run.d/zstd.c`.

use sha2::{Digest, Sha256};
use std::time::Duration;

/// CPU time of `/slow`.
const SLOW: Duration = Duration::from_millis(50);

pub fn by_path(path: &str) -> Option<fn(&[u8]) -> String> {
    match path {
        "/sha256" => Some(sha256),
        "/zstd" => Some(zstd_bytes),
        "/csv" => Some(csv),
        "/slow" => Some(slow),
        _ => None,
    }
}

fn sha256(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The length of the body after compression with level 3.
fn zstd_bytes(body: &[u8]) -> String {
    zstd::bulk::compress(body, 3).expect("zstd").len().to_string()
}

/// The sum of the third column.
fn csv(body: &[u8]) -> String {
    let mut sum = 0u64;
    for line in body.split(|byte| *byte == b'\n') {
        let Some(cell) = line.split(|byte| *byte == b',').nth(2) else { continue };
        sum += cell.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
    }
    sum.to_string()
}

fn slow(_body: &[u8]) -> String {
    let begun = thread_time();
    while thread_time() - begun < SLOW {}
    "done".to_owned()
}

fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer names a local value.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A thread that computes runs on any core, even if the thread that serves is pinned to one.
pub fn use_all_cores() {
    if std::env::var_os("BENCH_ALL_CORES").is_none() {
        return;
    }
    // SAFETY: the set is a local value; zeroes are an empty set.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        (0..libc::CPU_SETSIZE as usize).for_each(|core| libc::CPU_SET(core, &mut set));
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}
