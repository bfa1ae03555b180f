//! The server's own paths: `/mgnt`, `/jobs`, `/blobs`, `/healthz`, `/metrics`; and their access control.
//!
//! Operations that may take long run off the shards: the control plane's threads answer a deployment. Input is a parsed
//! request; output is a [`Reply`].

mod access;
mod audit;
mod blobs;
mod deployed;
mod failures;
mod file_answer;
mod job_answers;
mod job_files;
mod jobs;
pub mod keys;
mod kinds;
mod logs;
mod metrics;
mod mgnt;
mod mgnt_answers;
mod paths;
mod query;
mod reach;
mod schedules;
mod site;
mod versions;

pub use access::{Access, Client};
pub use audit::Who;
pub use deployed::Site;
pub use keys::{KeySource, KeysError};
pub use logs::{LogsQuery, log_line, logs_query};
pub use paths::owns;
pub use query::{OF_FEED, check_parameters};

use crate::jobs::Jobs;
use crate::jobs::blobs::{BodyWriter, Notify};
use crate::jobs::store::StoreError;
use crate::module::control::Control;
use crate::module::reach::Reach;
use crate::proto::http1::{Method, RequestView};
use crate::server_response::{Reply, ServerAnswer};
use crate::shard_stats::{ShardStats, StatsView};
use audit::Actor;
use deployed::Form;
use paths::is_under;
use std::sync::Arc;
use std::time::Instant;

/// Serves the server's own paths.
pub struct Admin {
    control: Control,
    jobs: Jobs,
    access: Arc<Access>,
    stats: Vec<Arc<ShardStats>>,
    started: Instant,
    site: Site,
    /// Limit, in bytes, on the memory that clients may make the server hold.
    memory_bytes_max: usize,
}

impl Admin {
    /// `stats` must have one entry per shard.
    #[must_use]
    pub fn new(control: Control, jobs: Jobs, access: Arc<Access>, stats: Vec<Arc<ShardStats>>) -> Self {
        Self {
            control,
            jobs,
            access,
            stats,
            started: Instant::now(),
            site: Site::default(),
            memory_bytes_max: usize::MAX,
        }
    }

    /// Sets the addresses at which modules are served.
    #[must_use]
    pub fn with_site(mut self, site: Site) -> Self {
        self.site = site;
        self
    }

    /// Sets the limit, in bytes, on the memory that clients may make the server hold.
    #[must_use]
    pub fn with_memory(mut self, bytes_max: usize) -> Self {
        self.memory_bytes_max = bytes_max;
        self
    }

    /// The server's memory: bytes held for clients, the limit, and the numbers of refusals and closed connections.
    fn memory_json(&self) -> serde_json::Value {
        let views: Vec<_> = self.stats.iter().map(|stats| stats.view()).collect();
        let sum = |count: fn(&StatsView) -> u64| views.iter().map(count).sum::<u64>();
        serde_json::json!({
            "bytes": sum(|view| view.memory_bytes),
            "bytes_max": self.memory_bytes_max,
            "refused": sum(|view| view.memory_refused),
            "closed": sum(|view| view.memory_closed),
        })
    }

    /// The counters of shard number `shard`.
    #[must_use]
    pub fn stats(&self, shard: usize) -> Arc<ShardStats> {
        self.stats.get(shard).map(Arc::clone).unwrap_or_default()
    }

    /// The job service.
    #[must_use]
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// Answers with the id of the job `uuid`, if it is a job of a module within `reach`.
    pub fn find_job(
        &self,
        uuid: String,
        reach: Reach,
        answer: Box<dyn FnOnce(Result<Option<i64>, StoreError>) + Send>,
    ) {
        jobs::find_within(&self.control, &self.jobs, uuid, reach, answer);
    }

    /// Admits a request and returns its actor, or refuses it.
    ///
    /// # Errors
    /// The answer to send instead.
    pub fn check(&self, view: &RequestView<'_>, client: Client) -> Result<Who, ServerAnswer> {
        let who = self.access.check(view, client)?;
        reach::check_path(&self.control, view, &who)
            .inspect_err(|refusal| access::log_out_of_reach(view, &self.actor(who.clone(), client), refusal.status))?;
        Ok(who)
    }

    /// Admits or refuses a request on a path for which [`owns`] is true. Every client may read the server's health, and a
    /// preflight carries no credentials (Fetch standard §4.8).
    ///
    /// # Errors
    /// The answer to send instead.
    pub fn admit(&self, view: &RequestView<'_>, client: Client) -> Result<(), ServerAnswer> {
        if view.path() == b"/healthz" || view.method() == Method::Options {
            return Ok(());
        }
        self.check(view, client).map(drop)
    }

    /// Logs an admitted request whose body is not read, because it is larger than `limit`.
    pub fn too_large(&self, view: &RequestView<'_>, client: Client, limit: usize) {
        if let (b"/mgnt", Method::Post, Ok(who)) = (view.path(), view.method(), self.check(view, client)) {
            let reason = format!("the body is larger than {limit} bytes");
            mgnt::log_unread(&Actor { who, from: client.peer, is_alone: false }, 413, &reason);
        }
    }

    /// Answers a request on a path for which [`owns`] is true; the answer may come later, from another thread.
    pub fn handle(&self, view: &RequestView<'_>, client: Client, reply: Reply) {
        let path = view.path();
        if path == b"/healthz" {
            return reply.send(&ServerAnswer::text(200, "ok\n"));
        }
        // A preflight carries no credentials (Fetch standard §4.8), so it is answered before the key is checked.
        if view.method() == Method::Options {
            return reply.send(&ServerAnswer::preflight("GET, POST, PUT, DELETE, OPTIONS"));
        }
        let who = match self.check(view, client) {
            Ok(who) => who,
            Err(refusal) => return reply.send(&refusal),
        };
        let reply = if who == Who::Loopback { reply.for_this_site() } else { reply };
        let actor = self.actor(who, client);
        if let Err(refusal) = reach::check_submission(&self.control, view, &actor.who) {
            access::log_out_of_reach(view, &actor, refusal.status);
            return reply.send(&refusal);
        }
        if path == b"/metrics" {
            reply.send(&self.metrics(view));
        } else if is_under(path, b"/mgnt") {
            let form = Form::of(view, client, &self.site);
            mgnt::handle(&self.control, view, form, || self.memory_json(), actor, reply);
        } else if is_under(path, b"/blobs") {
            blobs::handle(&self.jobs, view, actor, reply);
        } else {
            jobs::handle(&self.control, &self.jobs, view, actor, reply);
        }
    }

    /// Whether the body of a request on such a path is stored as it arrives.
    #[must_use]
    pub fn stores_body(&self, view: &RequestView<'_>) -> bool {
        blobs::stores_body(view)
    }

    /// Limit, in bytes, on a body that is stored as it arrives.
    #[must_use]
    pub fn stored_bytes_max(&self) -> usize {
        usize::try_from(self.jobs.blobs().blob_bytes_max()).unwrap_or(usize::MAX)
    }

    /// Stores the body of `view`, of `length` bytes if known, and answers once the body is stored or has failed. `notify` is
    /// called when bytes of the body can be accepted: at the start, and when there is room again.
    pub fn store_body(
        &self,
        view: &RequestView<'_>,
        client: Client,
        length: Option<u64>,
        notify: Notify,
        reply: Reply,
    ) -> BodyWriter {
        match self.access.check(view, client) {
            Ok(who) => blobs::store(&self.jobs, view, self.actor(who, client), length, notify, reply),
            Err(refusal) => blobs::refuse(&refusal, reply),
        }
    }

    fn actor(&self, who: Who, client: Client) -> Actor {
        Actor { who, from: client.peer, is_alone: self.access.has_one_key() }
    }

    /// Does periodic work; called about every 100 ms.
    pub fn tick(&self) {
        self.access.tick();
    }

    fn metrics(&self, view: &RequestView<'_>) -> ServerAnswer {
        if view.method().is_safe() {
            let answer = metrics::render(&self.stats, &self.control, &self.jobs, self.started, self.memory_bytes_max);
            metrics::with_access(answer, &self.access)
        } else {
            ServerAnswer::text(405, "this path answers GET, HEAD\n").with("Allow", "GET, HEAD")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::owns;

    #[test]
    fn owns_its_paths_and_no_others() {
        for path in ["/mgnt", "/mgnt/", "/mgnt/x", "/jobs", "/jobs/ws", "/blobs", "/blobs/x", "/healthz", "/metrics"] {
            assert!(owns(path.as_bytes()), "{path}");
        }
        for path in ["/", "", "/m", "/mgntx", "/jobsx", "/blobsx", "/b", "/healthz/x", "/metric", "/hello", "*"] {
            assert!(!owns(path.as_bytes()), "{path}");
        }
    }
}
