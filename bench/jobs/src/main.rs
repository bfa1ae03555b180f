//! Measures background jobs. `jobs-bench SERVER MODULE.c DIRECTORY ROUNDS SECONDS`; see ../jobs.sh.
//!
//! Each round does everything once, server and bare loop in turn, each on a fresh database; the tables show medians.

mod bare;
mod clients;
mod server;

use server::{Server, field};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CLIENTS: usize = 64;
const EVENTS: u64 = 200_000;
const WATCHERS: usize = 1_000;
const WATCHED_EVENTS: u64 = 1_000;
/// `created`, `started` and `done`.
const OWN_EVENTS: u64 = 3;

struct Bench {
    program: PathBuf,
    module: String,
    dir: PathBuf,
    seconds: u64,
    /// How much longer each sync of the disk takes, if it is slowed down: then only submissions are measured, with `full`.
    slow_sync_us: Option<String>,
    /// What was measured, by table row and column, once a round.
    results: BTreeMap<(String, &'static str), Vec<f64>>,
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis()
}

impl Bench {
    fn server(&self, args: &[&str]) -> Server {
        Server::start(&self.program, &self.module, self.dir.join("server"), args)
    }

    fn record(&mut self, row: &str, column: &'static str, value: f64) {
        self.results.entry((row.to_owned(), column)).or_default().push(value);
    }

    fn median(&self, row: &str, column: &'static str) -> f64 {
        let mut values = self.results[&(row.to_owned(), column)].clone();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    fn sum(&self, row: &str, column: &'static str) -> f64 {
        self.results[&(row.to_owned(), column)].iter().sum()
    }

    /// Submissions by many clients; `body` says whether the jobs run meanwhile.
    fn submissions(&mut self, row: &str, durability: &str, body: &str) {
        let args = ["--shards", "1", "--job-workers", "1", "--job-pending-max", "10000000", "--durability", durability];
        let server = self.server(&args);
        let (commands, commits) = server.written();
        let outcome = clients::submit(&server.addr, CLIENTS, body, self.seconds);
        let after = server.written();
        drop(server);
        let group = (after.0 - commands) / (after.1 - commits);
        let path = self.dir.join("bare.sqlite3");
        let length = Duration::from_secs(self.seconds);
        let rate = outcome.accepted as f64 / outcome.elapsed.as_secs_f64();
        let single = bare::submissions(&path, durability, 1, length);
        let grouped = bare::submissions(&path, durability, (group.round() as u64).max(1), length);
        for (column, value) in [
            ("rate", rate),
            ("errors", outcome.errors as f64),
            ("group", group),
            ("single", single),
            ("grouped", grouped),
            ("to single", rate / single),
            ("to grouped", rate / grouped),
        ] {
            self.record(row, column, value);
        }
    }

    fn events(&mut self) {
        let server = self.server(&["--shards", "1", "--durability", "normal"]);
        let (commands, commits) = server.written();
        let uuid = server.submit(&format!(r#"{{"module":"jobs","job":"count","payload":{{"n":{EVENTS}}}}}"#));
        let ended = loop {
            std::thread::sleep(Duration::from_millis(20));
            let job = server.ask("GET", &format!("/jobs/{uuid}"), "").1;
            match field(&job, "state") {
                "\"done\"" => break field(&job, "updated_at").parse::<f64>().expect("a time"),
                "\"failed\"" => panic!("{job}"),
                _ => {}
            }
        };
        let after = server.written();
        let started = server.ask("GET", &format!("/jobs/{uuid}/events?limit=2"), "").1;
        let started = started.split("\"ts\":").nth(2).and_then(|rest| rest.split(',').next());
        let started = started.and_then(|ts| ts.parse::<f64>().ok()).expect("a time");
        drop(server);
        let group = (after.0 - commands) / (after.1 - commits);
        let rate = EVENTS as f64 / (ended - started) * 1_000.0;
        let grouped = bare::events(&self.dir.join("bare.sqlite3"), "normal", (group.round() as u64).max(1), EVENTS);
        for (column, value) in [("rate", rate), ("group", group), ("grouped", grouped), ("to grouped", rate / grouped)]
        {
            self.record("events", column, value);
        }
    }

    fn fan_out(&mut self, row: &str, delay_ms: u64) {
        let server = self.server(&["--shards", "2", "--durability", "normal"]);
        let run_at = now_ms() + 2_500;
        let payload = format!(r#"{{"n":{WATCHED_EVENTS},"delay_ms":{delay_ms}}}"#);
        let uuid =
            server.submit(&format!(r#"{{"module":"jobs","job":"count","payload":{payload},"run_at":{run_at}}}"#));
        let mut watchers = clients::Watchers::open(&server.addr, &uuid, WATCHERS);
        assert!(now_ms() < run_at, "the watchers took too long to connect");
        let cpu = server.cpu_s();
        let watched = watchers.follow();
        let cpu = server.cpu_s() - cpu;
        let expected = WATCHERS as u64 * (WATCHED_EVENTS + OWN_EVENTS);
        for (column, value) in [
            ("lost", expected as f64 - watched.events as f64),
            ("differing", watched.differing as f64),
            ("seconds", watched.elapsed.as_secs_f64()),
            ("cpu", cpu),
            ("cpu each", cpu * 1e6 / watched.events as f64),
        ] {
            self.record(row, column, value);
        }
    }

    fn durabilities(&self) -> &'static [&'static str] {
        if self.slow_sync_us.is_some() { &["full"] } else { &["full", "normal"] }
    }

    fn print_submissions(&self) {
        let slow = self.slow_sync_us.as_ref().map(|us| format!(", syncs {us} µs longer")).unwrap_or_default();
        println!(
            "| POST /jobs, {CLIENTS} clients{slow} | jobs/s | errors | commands a commit | bare, 1 a commit | \
             bare, same group | / 1 a commit | / same group |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
        for durability in self.durabilities() {
            for kind in ["run later", "run at once"] {
                let row = format!("{durability}, {kind}");
                let median = |column| self.median(&row, column);
                println!(
                    "| {row} | {:.0} | {:.0} | {:.1} | {:.0} | {:.0} | {:.1} | {:.2} |",
                    median("rate"),
                    self.sum(&row, "errors"),
                    median("group"),
                    median("single"),
                    median("grouped"),
                    median("to single"),
                    median("to grouped"),
                );
            }
        }
    }

    fn print_events(&self) {
        println!("\n| events of one job, normal | events/s | commands a commit | bare, same group | / same group |");
        println!("| --- | --- | --- | --- | --- |");
        let median = |column| self.median("events", column);
        println!(
            "| {EVENTS} | {:.0} | {:.0} | {:.0} | {:.2} |",
            median("rate"),
            median("group"),
            median("grouped"),
            median("to grouped"),
        );
    }

    fn print_fan_out(&self) {
        println!(
            "\n| {WATCHED_EVENTS} events to {WATCHERS} WebSockets, 2 shards | events lost | watchers that differ | \
             seconds | CPU s | CPU µs a frame |"
        );
        println!("| --- | --- | --- | --- | --- | --- |");
        for row in ["at once", "1 ms apart"] {
            let median = |column| self.median(row, column);
            println!(
                "| {row} | {:.0} | {:.0} | {:.2} | {:.2} | {:.2} |",
                self.sum(row, "lost"),
                self.sum(row, "differing"),
                median("seconds"),
                median("cpu"),
                median("cpu each"),
            );
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, program, module, dir, rounds, seconds] = args.as_slice() else {
        eprintln!("usage: jobs-bench SERVER MODULE.c DIRECTORY ROUNDS SECONDS");
        std::process::exit(2);
    };
    let module = std::fs::read_to_string(module).expect("the module's source");
    let mut bench = Bench {
        program: PathBuf::from(program).canonicalize().expect("the server's program"),
        module: format!("#include <cweb.h>\n{module}"),
        dir: PathBuf::from(dir).canonicalize().expect("a directory"),
        seconds: seconds.parse().expect("a number of seconds"),
        slow_sync_us: std::env::var("SLOW_SYNC_US").ok(),
        results: BTreeMap::new(),
    };
    let at_once = r#"{"module":"jobs","job":"quiet"}"#.to_owned();
    for round in 1..=rounds.parse().expect("a number of rounds") {
        eprintln!("round {round} of {rounds}");
        let later = format!(r#"{{"module":"jobs","job":"quiet","run_at":{}}}"#, now_ms() + 86_400_000);
        for durability in bench.durabilities() {
            bench.submissions(&format!("{durability}, run later"), durability, &later);
            bench.submissions(&format!("{durability}, run at once"), durability, &at_once);
        }
        if bench.slow_sync_us.is_none() {
            bench.events();
            bench.fan_out("at once", 0);
            bench.fan_out("1 ms apart", 1);
        }
    }
    bench.print_submissions();
    if bench.slow_sync_us.is_none() {
        bench.print_events();
        bench.print_fan_out();
    }
}
