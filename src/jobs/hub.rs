//! Passes committed job events from the writer to the shards that have watchers.
//!
//! The hub knows which shard watches which job, but not which clients. A shard gets each event of a commit once, and passes it
//! to its own clients.
//! A shard that subscribes before it reads from disk misses no event: events committed later are published after the
//! subscription.

use super::frame::{ALL_JOBS, JobFrame};
use super::store::JobEvent;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Takes the events of a commit on the writer's thread, so it must not block.
pub trait EventSink: Send + Sync {
    /// Takes the events, in order.
    fn events(&self, frames: Vec<Arc<JobFrame>>);
}

/// Watchers of one job: shard and number of watchers.
type Watchers = Vec<(usize, usize)>;

/// Distributes events; see the module's documentation.
#[derive(Default)]
pub struct Hub {
    jobs: Mutex<HashMap<i64, Watchers>>,
    shards: OnceLock<Vec<Arc<dyn EventSink>>>,
}

impl Hub {
    /// Sets the shards, in the order of their numbers; only the first call has an effect.
    pub fn set_shards(&self, shards: Vec<Arc<dyn EventSink>>) {
        let _ = self.shards.set(shards);
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<i64, Watchers>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a watcher of `job` on `shard`.
    pub fn watch(&self, job: i64, shard: usize) {
        let mut jobs = self.jobs();
        let watchers = jobs.entry(job).or_default();
        match watchers.iter_mut().find(|(known, _)| *known == shard) {
            Some((_, count)) => *count += 1,
            None => watchers.push((shard, 1)),
        }
    }

    /// Removes a watcher of `job` on `shard`.
    pub fn unwatch(&self, job: i64, shard: usize) {
        let mut jobs = self.jobs();
        let Some(watchers) = jobs.get_mut(&job) else { return };
        if let Some((_, count)) = watchers.iter_mut().find(|(known, _)| *known == shard) {
            *count = count.saturating_sub(1);
        }
        watchers.retain(|(_, count)| *count > 0);
        if watchers.is_empty() {
            jobs.remove(&job);
        }
    }

    /// Tells the shards that watch `job` that its last event has been published.
    pub fn end(&self, job: i64) {
        let Some(shards) = self.shards.get() else { return };
        let watching: Vec<usize> = self.jobs().get(&job).into_iter().flatten().map(|(shard, _)| *shard).collect();
        for shard in watching.into_iter().filter_map(|shard| shards.get(shard)) {
            shard.events(vec![Arc::new(JobFrame::end(job))]);
        }
    }

    /// Passes the events of a commit to the shards that watch their jobs.
    pub fn publish(&self, events: &[JobEvent]) {
        let Some(shards) = self.shards.get() else { return };
        let mut batches: Vec<Vec<Arc<JobFrame>>> = vec![Vec::new(); shards.len()];
        {
            let jobs = self.jobs();
            if jobs.is_empty() {
                return;
            }
            // Each commit sends a single notice, however many events it has: see `feed`.
            if let (Some(watchers), Some(last)) = (jobs.get(&ALL_JOBS), events.last()) {
                let news = Arc::new(JobFrame::news(last.id));
                for (shard, _) in watchers {
                    if let Some(batch) = batches.get_mut(*shard) {
                        batch.push(Arc::clone(&news));
                    }
                }
            }
            for event in events {
                let Some(watchers) = jobs.get(&event.job_id) else { continue };
                let frame = Arc::new(JobFrame::new(event));
                for (shard, _) in watchers {
                    if let Some(batch) = batches.get_mut(*shard) {
                        batch.push(Arc::clone(&frame));
                    }
                }
            }
        }
        for (shard, batch) in shards.iter().zip(batches) {
            if !batch.is_empty() {
                shard.events(batch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<i64>>);

    impl EventSink for Seen {
        fn events(&self, frames: Vec<Arc<JobFrame>>) {
            self.0.lock().unwrap().extend(frames.iter().map(|frame| frame.event_id));
        }
    }

    fn event(job_id: i64, id: i64) -> JobEvent {
        JobEvent { job_id, uuid: "u".into(), id, ts_ms: 7, kind: "a\"b".into(), data: "{}".into(), is_final: false }
    }

    #[test]
    fn each_shard_gets_the_events_of_the_jobs_it_watches_once() {
        let (hub, shards) = (Hub::default(), [Arc::new(Seen::default()), Arc::new(Seen::default())]);
        hub.set_shards(shards.iter().map(|shard| Arc::clone(shard) as Arc<dyn EventSink>).collect());
        hub.watch(1, 0);
        hub.watch(1, 0);
        hub.watch(1, 1);
        hub.watch(2, 1);
        hub.publish(&[event(1, 10), event(2, 11), event(3, 12)]);
        hub.unwatch(1, 0);
        hub.unwatch(2, 1);
        hub.publish(&[event(1, 13), event(2, 14)]);
        hub.unwatch(1, 0);
        hub.publish(&[event(1, 15)]);
        hub.end(1);
        hub.end(2);
        assert_eq!(*shards[0].0.lock().unwrap(), [10, 13]);
        assert_eq!(*shards[1].0.lock().unwrap(), [10, 11, 13, 15, 0]);
        hub.unwatch(1, 1);
        hub.watch(ALL_JOBS, 1);
        hub.publish(&[event(7, 20), event(8, 21)]);
        assert_eq!(shards[1].0.lock().unwrap().last(), Some(&21), "one notice for a commit");
        assert_eq!(shards[1].0.lock().unwrap().len(), 6);
        hub.unwatch(ALL_JOBS, 1);
        assert!(hub.jobs().is_empty());
    }

    #[test]
    fn a_frame_is_one_json_object_of_five_fields() {
        let frame = JobFrame::new(&event(1, 10));
        assert_eq!(frame.json, r#"{"job_uuid":"u","event_id":10,"ts":7,"type":"a\"b","data":{}}"#);
        let first = frame.websocket(|json| json.as_bytes().to_vec());
        assert!(Arc::ptr_eq(&first, &frame.websocket(|_| unreachable!("encoded once"))));
    }
}
