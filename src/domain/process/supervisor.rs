//! Sees to it that a life is in service, and another ready to follow it.
//!
//! One thread. A death, a wish for another life, and the time that passes are events; each is dealt with to its end
//! before the next, so there is never more than one change of lives under way. What follows a change is in
//! `succession`.

use super::growth::Growth;
use super::life::Life;
use super::lock;
use super::quarantine::Pace;
use super::shared::Shared;
use crossbeam::channel::Receiver;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// How often it looks at the size of the life in service.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often while there is no spare.
const LOOK_SOON: Duration = Duration::from_millis(20);
/// How long after a change the next spare is started: not while the new life warms up.
const SPARE_DELAY: Duration = Duration::from_millis(250);
/// The wait after the death of a spare; it doubles with each that follows.
const SPARE_PAUSE: Duration = Duration::from_secs(1);
/// At most 2^this times [`SPARE_PAUSE`].
const SPARE_DOUBLINGS_MAX: u32 = 6;

/// What the supervisor is told.
pub(super) enum Event {
    /// A life is dead and buried.
    Died { life: u64 },
    /// Another life is to follow this one.
    Replace { life: u64, why: String },
    /// Something has changed.
    Look,
}

pub(super) struct Supervisor {
    pub(super) shared: Arc<Shared>,
    events: Receiver<Event>,
    /// Started and confined, without modules.
    spare: Option<Arc<Life>>,
    spare_at: Instant,
    spare_deaths: u32,
    /// The life that was put into service last.
    serving: Option<Arc<Life>>,
    pace: Pace,
    growth: Growth,
}

impl Supervisor {
    pub(super) fn new(shared: Arc<Shared>, events: Receiver<Event>) -> Self {
        let growth = Growth::new(shared.config.rss_recycle_bytes);
        let spare_at = Instant::now();
        Self { shared, events, spare: None, spare_at, spare_deaths: 0, serving: None, pace: Pace::default(), growth }
    }

    /// Runs until the server stops.
    pub(super) fn run(mut self) {
        self.succeed(None);
        while !self.shared.is_stopping() {
            self.look();
            match self.events.recv_timeout(self.next_look()) {
                Ok(Event::Died { life }) => self.died(life),
                Ok(Event::Replace { life, why }) => self.replace(life, &why),
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
        if let Some(why) = self.growth.look(&current, Instant::now()) {
            self.shared.want_replacement(&current, &why);
        }
        // Not before the server serves: it is to start fast.
        if self.spare.is_none() && Instant::now() >= self.spare_at && self.shared.inboxes.get().is_some() {
            match Life::start(&self.shared) {
                Ok(life) => self.spare = Some(life),
                Err(error) => self.no_spare(&error.to_string()),
            }
        }
    }

    fn next_look(&self) -> Duration {
        let spare = self.spare_at.saturating_duration_since(Instant::now());
        if self.spare.is_none() { spare.clamp(LOOK_SOON, LOOK_EVERY) } else { LOOK_EVERY }
    }

    fn died(&mut self, life: u64) {
        if self.spare.as_ref().is_some_and(|spare| spare.number() == life) {
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

    fn replace(&mut self, life: u64, why: &str) {
        let Some(old) = self.shared.current().filter(|current| current.number() == life) else { return };
        tracing::info!("the process of domain {} is replaced: {why}", self.shared.name());
        self.pause();
        self.succeed(Some(&old));
    }

    /// One life after the other has ended: waits a moment if there were many.
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
    pub(super) fn fresh(&mut self) -> io::Result<Arc<Life>> {
        let spare = self.spare.take().filter(|spare| !spare.is_dead());
        if spare.is_some() {
            self.spare_deaths = 0;
        }
        let life = spare.map_or_else(|| Life::start(&self.shared), Ok)?;
        life.set_used();
        Ok(life)
    }

    /// `life` is in service now.
    pub(super) fn begun(&mut self, life: &Arc<Life>) {
        self.serving = Some(Arc::clone(life));
        self.growth.begin(life, Instant::now());
        self.spare_at = self.spare_at.max(Instant::now() + SPARE_DELAY);
    }
}
