//! The same rows without a server: one thread, prepared statements, the server's own schema and settings.

use rusqlite::{Connection, params};
use std::path::Path;
use std::time::{Duration, Instant};

const SCHEMA: &str = include_str!("../../../src/jobs/store/sqlite/schema_1.sql");
const INSERT_JOB: &str = "INSERT INTO jobs (uuid, module_name, job_name, state, module_hash, created_at, updated_at, \
     payload_json, max_attempts, backoff_ms, timeout_ms, run_at, priority, unique_key) \
     VALUES (?1, 'jobs', 'quiet', 'pending', ?2, ?3, ?3, '{}', 1, 0, 0, ?3, 0, NULL)";
const INSERT_EVENT: &str = "INSERT INTO job_events (job_id, ts, type, data_json, final) VALUES (?1, ?2, ?3, ?4, 0)";
/// Milliseconds since 1970, as good as any.
const NOW_MS: i64 = 1_750_000_000_000;

fn open(path: &Path, synchronous: &str) -> Connection {
    let connection = Connection::open(path).expect("a database");
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).expect("WAL");
    connection.pragma_update(None, "synchronous", synchronous).expect("synchronous");
    connection.pragma_update(None, "foreign_keys", true).expect("foreign keys");
    connection.execute_batch(SCHEMA).expect("the schema");
    connection
}

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
}

/// Jobs a second, `group` of them in a transaction.
pub(crate) fn submissions(path: &Path, synchronous: &str, group: u64, length: Duration) -> f64 {
    let connection = open(path, synchronous);
    let prepare = |sql| connection.prepare(sql).expect("a statement");
    let (mut begin, mut commit) = (prepare("BEGIN IMMEDIATE"), prepare("COMMIT"));
    let (mut job, mut event) = (prepare(INSERT_JOB), prepare(INSERT_EVENT));
    let hash = "0123456789abcdef".repeat(4);
    let (start, mut count) = (Instant::now(), 0_u64);
    while start.elapsed() < length {
        begin.execute([]).expect("BEGIN");
        for _ in 0..group {
            count += 1;
            let uuid = format!("0197a1b2-{:04x}-7{:03x}-8000-{count:012x}", count >> 12 & 0xFFFF, count & 0xFFF);
            job.execute(params![uuid, hash, NOW_MS]).expect("a job");
            let id = connection.last_insert_rowid();
            event.execute(params![id, NOW_MS, "created", r#"{"module":"jobs","job":"quiet"}"#]).expect("an event");
        }
        commit.execute([]).expect("COMMIT");
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    remove(path);
    rate
}

/// Events a second: `total` of one job, `group` in a transaction.
pub(crate) fn events(path: &Path, synchronous: &str, group: u64, total: u64) -> f64 {
    let connection = open(path, synchronous);
    let prepare = |sql| connection.prepare(sql).expect("a statement");
    let (mut begin, mut commit, mut event) = (prepare("BEGIN IMMEDIATE"), prepare("COMMIT"), prepare(INSERT_EVENT));
    connection.execute(INSERT_JOB, params!["u", "h", NOW_MS]).expect("a job");
    let (start, mut count) = (Instant::now(), 0);
    while count < total {
        begin.execute([]).expect("BEGIN");
        for _ in 0..group.min(total - count) {
            count += 1;
            event.execute(params![1, NOW_MS, "step", format!("{{\"n\":{count}}}")]).expect("an event");
        }
        commit.execute([]).expect("COMMIT");
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    remove(path);
    rate
}
