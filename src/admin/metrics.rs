//! `/metrics` in the Prometheus text format.

use super::Access;
use crate::domain::DomainView;
use crate::jobs::Jobs;
use crate::module::control::Control;
use crate::server_response::ServerAnswer;
use crate::shard_stats::{ShardStats, StatsView};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

type Column = (&'static str, &'static str, &'static str, fn(&StatsView) -> u64);

/// Name, type, help, value.
const COLUMNS: [Column; 16] = [
    ("cweb_connections_accepted_total", "counter", "Connections accepted.", |s| s.accepted),
    ("cweb_connections_closed_total", "counter", "Connections closed.", |s| s.closed),
    ("cweb_connections", "gauge", "Open connections.", |s| s.connections),
    ("cweb_requests_total", "counter", "HTTP requests.", |s| s.requests),
    ("cweb_requests_inline_total", "counter", "Requests answered on the shard thread.", |s| s.inline),
    ("cweb_overloaded_total", "counter", "Requests and connections refused at a limit.", |s| s.overloaded),
    ("cweb_calls_in_flight", "gauge", "Calls handed to executors and not returned.", |s| s.in_flight),
    ("cweb_websockets", "gauge", "Open WebSockets.", |s| s.sockets),
    ("cweb_websockets_opened_total", "counter", "WebSocket handshakes completed.", |s| s.ws_opened),
    ("cweb_websocket_messages_in_total", "counter", "WebSocket messages received.", |s| s.ws_messages_in),
    ("cweb_websocket_messages_out_total", "counter", "WebSocket messages queued to send.", |s| s.ws_messages_out),
    ("cweb_websocket_overflows_total", "counter", "WebSockets closed for a reader too slow.", |s| s.ws_overflowed),
    ("cweb_response_headers_dropped_total", "counter", "Invalid header fields of inline handlers.", |s| {
        s.headers_dropped
    }),
    ("cweb_memory_bytes", "gauge", "Memory that clients make the server hold.", |s| s.memory_bytes),
    ("cweb_memory_refused_total", "counter", "Requests and messages refused for want of memory.", |s| s.memory_refused),
    ("cweb_memory_closed_total", "counter", "Connections closed to give their memory to others.", |s| s.memory_closed),
];

type DomainColumn = (&'static str, &'static str, &'static str, fn(&DomainView) -> u64);

/// The columns of a domain: name, type, help, value.
const DOMAIN_COLUMNS: [DomainColumn; 5] = [
    ("cweb_domain_restarts_total", "counter", "Times the domain's process was started again.", |d| d.restarts),
    ("cweb_domain_up", "gauge", "Whether the domain's process is running.", |d| u64::from(d.pid.is_some())),
    ("cweb_domain_resident_bytes", "gauge", "Resident memory of the domain's process.", |d| d.resident_bytes),
    ("cweb_domain_requests_total", "counter", "Requests handed to the domain.", |d| d.requests),
    ("cweb_domain_modules", "gauge", "Modules loaded into the domain.", |d| d.modules as u64),
];

/// Renders all metrics.
pub(super) fn render(
    stats: &[Arc<ShardStats>],
    control: &Control,
    jobs: &Jobs,
    started: Instant,
    memory_bytes_max: usize,
) -> ServerAnswer {
    let views: Vec<StatsView> = stats.iter().map(|stats| stats.view()).collect();
    let mut text = String::new();
    for (name, kind, help, value) in COLUMNS {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (shard, view) in views.iter().enumerate() {
            let _ = writeln!(text, "{name}{{shard=\"{shard}\"}} {}", value(view));
        }
    }
    let served = control.table().load().modules().len();
    let _ = writeln!(text, "# HELP cweb_modules Modules served.\n# TYPE cweb_modules gauge\ncweb_modules {served}");
    let (store, files) = (jobs.stats(), jobs.blobs().usage());
    for (name, kind, help, value) in [
        (
            "cweb_memory_bytes_max",
            "gauge",
            "Limit on cweb_memory_bytes of all shards together (--memory-bytes-max).",
            memory_bytes_max as u64,
        ),
        ("cweb_jobs_unfinished", "gauge", "Jobs that wait or run.", jobs.unfinished() as u64),
        (
            "cweb_job_kinds_paused",
            "gauge",
            "Paused kinds of jobs: none of their runs begins.",
            jobs.paused_kinds() as u64,
        ),
        ("cweb_job_writer_queue", "gauge", "Commands that wait for the writer.", store.queue_length() as u64),
        ("cweb_job_commits_total", "counter", "Transactions committed.", store.commits()),
        ("cweb_job_commands_total", "counter", "Commands in committed transactions.", store.commands()),
        ("cweb_job_events_total", "counter", "Events written.", store.events()),
        ("cweb_job_failures_total", "counter", "Transactions that failed.", store.failures()),
        ("cweb_job_ends_refused_total", "counter", "Ends of runs that could not be stored.", jobs.ends_refused()),
        ("cweb_blobs_bytes", "gauge", "Bytes of blobs and outputs of jobs.", files.bytes),
        ("cweb_blobs_bytes_max", "gauge", "Limit on blobs and outputs of jobs (--blobs-bytes-max).", files.bytes_max),
    ] {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    modules(&mut text, control);
    let seconds = started.elapsed().as_secs();
    let _ = writeln!(
        text,
        "# HELP cweb_uptime_seconds Seconds since start.\n# TYPE cweb_uptime_seconds counter\ncweb_uptime_seconds {seconds}"
    );
    ServerAnswer { content_type: "text/plain; version=0.0.4", ..ServerAnswer::text(200, text) }
}

/// Adds the number of refused requests to `answer`.
pub(super) fn with_access(mut answer: ServerAnswer, access: &Access) -> ServerAnswer {
    let mut text = "# HELP cweb_auth_failures_total Requests for the server's own paths that were refused.\n\
                    # TYPE cweb_auth_failures_total counter\n"
        .to_owned();
    for (reason, count) in access.refused() {
        let _ = writeln!(text, "cweb_auth_failures_total{{reason=\"{reason}\"}} {count}");
    }
    answer.body.extend_from_slice(text.as_bytes());
    answer
}

/// Appends the modules that are out of service, and the state of each domain.
fn modules(text: &mut String, control: &Control) {
    let table = control.table().load_full();
    let quarantined: Vec<&str> = table
        .modules()
        .iter()
        .filter(|module| module.quarantine().is_some())
        .map(|module| module.manifest().name.as_str())
        .collect();
    if !quarantined.is_empty() {
        let name = "cweb_module_quarantined";
        let _ = writeln!(text, "# HELP {name} The module is out of service.\n# TYPE {name} gauge");
        for module in quarantined {
            let _ = writeln!(text, "{name}{{module=\"{}\"}} 1", label(module));
        }
    }
    let domains = control.domains();
    if domains.is_empty() {
        return;
    }
    for (name, kind, help, value) in DOMAIN_COLUMNS {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for domain in &domains {
            let _ = writeln!(text, "{name}{{domain=\"{}\"}} {}", label(&domain.name), value(domain));
        }
    }
}

/// Escapes the value of a label, because a module's name may have any text.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::label;

    #[test]
    fn labels_hold_any_name() {
        assert_eq!(label("a\\\"b\"\n"), r#"a\\\"b\"\n"#);
    }
}
