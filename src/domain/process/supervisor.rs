//! Sees to it that a process is in service, and another ready to follow it.
//!
//! One thread. A death, a wish for another process, and the time that passes are events; each is dealt with to its end
//! before the next, so there is never more than one change of processes under way. What follows a change is in
//! `replacement`.

use super::instance::ProcessInstance;
use super::lock;
use super::memory_watch::MemoryWatch;
use super::quarantine::Pace;
use super::shared::DomainShared;
use crossbeam::channel::Receiver;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// How often it looks at the size of the process in service.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often while there is no spare.
const LOOK_SOON: Duration = Duration::from_millis(20);
/// How long after a change the next spare is started: not while the new process warms up.
const SPARE_DELAY: Duration = Duration::from_millis(250);
/// The wait after the death of a spare; it doubles with each that follows.
const SPARE_PAUSE: Duration = Duration::from_secs(1);
/// At most 2^this times [`SPARE_PAUSE`].
const SPARE_DOUBLINGS_MAX: u32 = 6;

/// What the supervisor is told.
pub(super) enum Event {
    /// A process is dead and reaped.
    Died { process: u64 },
    /// Another process is to follow this one.
    Replace { process: u64, why: String },
    /// Something has changed.
    Look,
}

pub(super) struct Supervisor {
    pub(super) shared: Arc<DomainShared>,
    events: Receiver<Event>,
    /// Started and confined, without modules.
    spare: Option<Arc<ProcessInstance>>,
    spare_at: Instant,
    spare_deaths: u32,
    /// The process that was put into service last.
    serving: Option<Arc<ProcessInstance>>,
    pace: Pace,
    memory_watch: MemoryWatch,
}

impl Supervisor {
    pub(super) fn new(shared: Arc<DomainShared>, events: Receiver<Event>) -> Self {
        let memory_watch = MemoryWatch::new(shared.config.rss_recycle_bytes);
        let spare_at = Instant::now();
        Self {
            shared,
            events,
            spare: None,
            spare_at,
            spare_deaths: 0,
            serving: None,
            pace: Pace::default(),
            memory_watch,
        }
    }

    /// Runs until the server stops.
    pub(super) fn run(mut self) {
        self.succeed(None);
        while !self.shared.is_stopping() {
            self.look();
            match self.events.recv_timeout(self.next_look()) {
                Ok(Event::Died { process }) => self.died(process),
                Ok(Event::Replace { process, why }) => self.replace(process, &why),
                Ok(Event::Look) | Err(_) => {}
            }
        }
    }

    /// Does what time has brought.
    fn look(&mut self) {
        let Some(current) = self.shared.current() else {
            if let Some(dead) = self.serving.take() {
                // Its crash is to be counted before the next one gets its modules.
                dead.wait_buried();
                self.shared.restarts.fetch_add(1, Ordering::Relaxed);
            }
            self.pause();
            return self.succeed(None);
        };
        if let Some(why) = current.overfills() {
            tracing::error!("{why}: the process of domain {} is ended", self.shared.name());
            current.kill();
        }
        if let Some(why) = self.memory_watch.look(&current, Instant::now()) {
            self.shared.want_replacement(&current, &why);
        }
        // Not before the server serves: it is to start fast.
        if self.spare.is_none() && Instant::now() >= self.spare_at && self.shared.inboxes.get().is_some() {
            match ProcessInstance::start(&self.shared) {
                Ok(process) => self.spare = Some(process),
                Err(error) => self.no_spare(&error.to_string()),
            }
        }
    }

    fn next_look(&self) -> Duration {
        let spare = self.spare_at.saturating_duration_since(Instant::now());
        if self.spare.is_none() { spare.clamp(LOOK_SOON, LOOK_EVERY) } else { LOOK_EVERY }
    }

    fn died(&mut self, process: u64) {
        if self.spare.as_ref().is_some_and(|spare| spare.number() == process) {
            self.no_spare("it died");
        }
    }

    fn no_spare(&mut self, why: &str) {
        let pause = SPARE_PAUSE * 2_u32.pow(self.spare_deaths.min(SPARE_DOUBLINGS_MAX));
        tracing::warn!("there is no spare process for modules ({why}); the next try is in {} s", pause.as_secs());
        self.spare = None;
        self.spare_deaths += 1;
        self.spare_at = Instant::now() + pause;
    }

    fn replace(&mut self, process: u64, why: &str) {
        let Some(old) = self.shared.current().filter(|current| current.number() == process) else { return };
        tracing::info!("the process of domain {} is replaced: {why}", self.shared.name());
        self.pause();
        self.succeed(Some(&old));
    }

    /// One process after the other has ended: waits a moment if there were many.
    pub(super) fn pause(&mut self) {
        if let Some(pause) = self.pace.end(Instant::now()) {
            tracing::warn!(
                "the process of domain {} ends again and again: the next one comes after a pause",
                self.shared.name()
            );
            let factor = lock(&self.shared.unplaced).factor();
            self.sleep(pause * factor);
        }
    }

    fn sleep(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.shared.is_stopping() {
            thread::sleep(Duration::from_millis(20).min(time));
        }
    }

    /// A process without modules: the spare, or a new one.
    pub(super) fn fresh(&mut self) -> io::Result<Arc<ProcessInstance>> {
        let spare = self.spare.take().filter(|spare| !spare.is_dead());
        if spare.is_some() {
            self.spare_deaths = 0;
        }
        let process = spare.map_or_else(|| ProcessInstance::start(&self.shared), Ok)?;
        process.set_used();
        Ok(process)
    }

    /// `process` is in service now.
    pub(super) fn begun(&mut self, process: &Arc<ProcessInstance>) {
        self.serving = Some(Arc::clone(process));
        self.memory_watch.begin(process, Instant::now());
        self.spare_at = self.spare_at.max(Instant::now() + SPARE_DELAY);
    }
}
