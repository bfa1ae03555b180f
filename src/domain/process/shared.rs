//! What the supervisor, the modules and the readers of the lives share.

use super::asked::Permit;
use super::control::{Order, Outcome, Question};
use super::crash::CrashReport;
use super::identity::Identity;
use super::life::Life;
use super::link::ShardLink;
use super::lock;
use super::parent::DomainConfig;
use super::quarantine::{History, Quarantine, Unplaced};
use super::supervisor::Event;
use crate::abi::manifest::Manifest;
use crate::abi::settings::Settings;
use crate::domain::inbox::{Inbox, Message};
use crate::net::Waker;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long an order waits for a domain that is being started again, or replaced.
const UP_WAIT: Duration = Duration::from_secs(30);

/// Names of closed modules that are kept.
const CLOSED_MAX: usize = 64;

/// How long a publication waits for a domain.
const PUBLISH_WAIT: Duration = Duration::from_secs(1);

/// A module as it is to be loaded into every life.
pub(super) struct Loaded {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// What it has said of itself, and has to say in each life.
    pub(super) manifest: Arc<Manifest>,
    pub(super) has_onload: bool,
    pub(super) has_unload: bool,
    /// `onload` has run, `unload` has not.
    pub(super) onloaded: bool,
    pub(super) history: History,
    pub(super) quarantine: Arc<Quarantine>,
    pub(super) last_crash: Option<CrashReport>,
    /// What its code finds in each life.
    pub(super) settings: Settings,
}

/// The life in service, and who may give it orders.
#[derive(Default)]
struct Seat {
    current: Option<Arc<Life>>,
    /// Orders have to wait: another life is about to take the seat.
    closed: bool,
    /// Orders that are being carried out.
    inside: usize,
}

/// A run of a job: it stays with the life that it began in.
pub(super) struct Run {
    pub(super) life: Arc<Life>,
    pub(super) instance: u64,
    pub(super) uuid: String,
    pub(super) sender: Sender<RunQuestion>,
}

/// What a running job asks.
pub(super) struct RunQuestion {
    pub(super) call: u64,
    pub(super) what: Question,
    /// Dropped when it is answered.
    pub(super) permit: Permit,
}

/// A life that has not said for a publication that others find the modules now.
struct Deaf {
    life: u64,
    answer: Receiver<Outcome>,
}

pub(super) struct Shared {
    pub(super) config: DomainConfig,
    pub(super) wakers: Vec<Arc<Waker>>,
    pub(super) inboxes: OnceLock<Vec<Arc<Inbox>>>,
    /// Links made before the shards were there.
    links: Mutex<Vec<ShardLink>>,
    seat: Mutex<Seat>,
    changed: Condvar,
    pub(super) modules: Mutex<BTreeMap<u64, Loaded>>,
    published: Mutex<Vec<(String, u64)>>,
    deaf: Mutex<Option<Deaf>>,
    runs: Mutex<HashMap<u64, Run>>,
    /// Every life that may still be alive.
    lives: Mutex<Vec<Weak<Life>>>,
    stopping: AtomicBool,
    pub(super) restarts: AtomicU64,
    pub(super) replacements: AtomicU64,
    pub(super) last_crash: Mutex<Option<CrashReport>>,
    /// Deaths of which no module is known to be the cause.
    pub(super) unplaced: Mutex<Unplaced>,
    /// The names of modules that were closed not long ago: a destructor may run for a while.
    pub(super) closed: Mutex<VecDeque<(u64, String)>>,
    pub(super) events: Sender<Event>,
}

/// The right to give the life in service orders: none takes its place meanwhile. A life that dies does.
pub(super) struct Pass<'a> {
    shared: &'a Shared,
    life: Arc<Life>,
}

impl Pass<'_> {
    pub(super) fn life(&self) -> &Arc<Life> {
        &self.life
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.shared.seat().inside -= 1;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    pub(super) fn new(config: DomainConfig, wakers: Vec<Arc<Waker>>, events: Sender<Event>) -> Self {
        Self {
            config,
            wakers,
            inboxes: OnceLock::new(),
            links: Mutex::default(),
            seat: Mutex::new(Seat { closed: true, ..Seat::default() }),
            changed: Condvar::new(),
            modules: Mutex::default(),
            published: Mutex::default(),
            deaf: Mutex::default(),
            runs: Mutex::default(),
            lives: Mutex::default(),
            stopping: AtomicBool::new(false),
            restarts: AtomicU64::new(0),
            replacements: AtomicU64::new(0),
            last_crash: Mutex::default(),
            unplaced: Mutex::default(),
            closed: Mutex::default(),
            events,
        }
    }

    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.config.identity
    }

    /// The domain's name.
    pub(super) fn name(&self) -> &str {
        self.config.identity.name()
    }

    /// A number nobody has had.
    pub(super) fn number(&self) -> u64 {
        self.config.identity.unique()
    }

    fn seat(&self) -> MutexGuard<'_, Seat> {
        lock(&self.seat)
    }

    /// The life in service, if there is one.
    pub(super) fn current(&self) -> Option<Arc<Life>> {
        self.seat().current.clone()
    }

    /// The life in service, which may have to be waited for: also while nothing can be loaded into the one there is, since
    /// code that looks for a symbol may wait there for ever.
    pub(super) fn enter(&self) -> Result<Pass<'_>, String> {
        let deadline = Instant::now() + UP_WAIT;
        let mut seat = self.seat();
        loop {
            if let Some(life) = seat.current.clone().filter(|life| !seat.closed && !life.loader().is_jammed()) {
                seat.inside += 1;
                return Ok(Pass { shared: self, life });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_stopping() {
                return Err(format!("the process of domain {} is not there", self.name()));
            }
            seat = self.changed.wait_timeout(seat, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until another life has followed `old`, as long as that may take.
    pub(super) fn wait_followed(&self, old: &Life) {
        let deadline = Instant::now() + UP_WAIT;
        let mut seat = self.seat();
        while seat.current.as_ref().is_none_or(|current| current.number() == old.number()) && !self.is_stopping() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            seat = self.changed.wait_timeout(seat, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets no further order begin, and waits for those that have. False: some have not ended within `limit`.
    pub(super) fn close_gate(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut seat = self.seat();
        seat.closed = true;
        while seat.inside > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            seat = self.changed.wait_timeout(seat, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Puts `life` into service, with its links to the shards, and lets orders begin. False: it is dead already.
    pub(super) fn enthrone(&self, life: &Arc<Life>, links: Vec<ShardLink>) -> bool {
        let mut seat = self.seat();
        if life.is_dead() {
            return false;
        }
        seat.current = Some(Arc::clone(life));
        seat.closed = false;
        drop(seat);
        self.changed.notify_all();
        self.deliver(links);
        // Who publishes from here on tells this life; who did before has left it here.
        let published = lock(&self.published);
        let _ = life.publish(self.number(), published.clone());
        true
    }

    /// `life` is dead: it is out of service, and the shards learn it.
    pub(super) fn dethrone(&self, life: &Life) {
        let mut seat = self.seat();
        life.set_dead();
        if seat.current.as_ref().is_some_and(|current| current.number() == life.number()) {
            seat.current = None;
            seat.closed = true;
        }
        drop(seat);
        // A shard hears of a dead life that it was there before it hears of its death, or not at all.
        let mut links = lock(&self.links);
        links.retain(|link| !link.is_dead());
        for inbox in self.inboxes.get().into_iter().flatten() {
            inbox.push(Message::DomainDown { domain: self.config.identity.number() });
        }
    }

    /// Hands the shards their links; keeps them until there are shards.
    fn deliver(&self, new: Vec<ShardLink>) {
        let mut links = lock(&self.links);
        links.extend(new);
        self.hand_over(&mut links);
    }

    fn hand_over(&self, links: &mut Vec<ShardLink>) {
        let Some(inboxes) = self.inboxes.get() else { return };
        for link in links.drain(..).filter(|link| !link.is_dead()) {
            if let Some(inbox) = inboxes.get(link.shard()) {
                inbox.push(Message::DomainUp(Box::new(link)));
            }
        }
    }

    /// Names the shards' inboxes, once.
    pub(super) fn attach(&self, inboxes: Vec<Arc<Inbox>>) {
        // Under the lock: a link made meanwhile goes one way or the other.
        let mut links = lock(&self.links);
        let _ = self.inboxes.set(inboxes);
        self.hand_over(&mut links);
    }

    pub(super) fn publish(&self, named: Vec<(String, u64)>) {
        let mut published = lock(&self.published);
        if *published == named {
            // A deployment elsewhere. Every life is told when it begins, so this one knows.
            return;
        }
        *published = named;
        let Some(life) = self.current() else { return };
        let Ok(told) = life.publish(self.number(), published.clone()) else { return };
        // Who learns that a module is gone, or there, finds it so. One that does not answer finds out by itself, and is not
        // waited for again before it has answered.
        let mut deaf = lock(&self.deaf);
        let is_deaf =
            |deaf: &Deaf| deaf.life == life.number() && matches!(deaf.answer.try_recv(), Err(TryRecvError::Empty));
        if deaf.as_ref().is_some_and(is_deaf) {
            return;
        }
        let late = matches!(told.recv_timeout(PUBLISH_WAIT), Err(RecvTimeoutError::Timeout));
        *deaf = late.then(|| Deaf { life: life.number(), answer: told });
    }

    pub(super) fn published(&self) -> Vec<(String, u64)> {
        lock(&self.published).clone()
    }

    /// Takes note of a life, so that it ends with the server.
    pub(super) fn born(&self, life: &Arc<Life>) {
        let mut lives = lock(&self.lives);
        lives.retain(|life| life.strong_count() > 0);
        lives.push(Arc::downgrade(life));
    }

    /// Every life that may have modules loaded.
    pub(super) fn lives(&self) -> Vec<Arc<Life>> {
        lock(&self.lives).iter().filter_map(Weak::upgrade).collect()
    }

    /// Nobody uses the module any more.
    pub(super) fn close(&self, id: u64) {
        if let Some(gone) = lock(&self.modules).remove(&id) {
            let mut closed = lock(&self.closed);
            closed.truncate(CLOSED_MAX - 1);
            closed.push_front((id, gone.name));
        }
        for life in self.lives() {
            self.close_in(&life, id);
        }
    }

    /// Closes the module in `life`, if it is loaded there.
    pub(super) fn close_in(&self, life: &Life, id: u64) {
        if life.forget(id)
            && let Ok(end) = life.begin(self.number(), Order::Close { instance: id })
        {
            life.loader().closes(end);
        }
    }

    /// Module `id` says in `life` what it said when it was loaded first. If not it is closed there, and left out.
    ///
    /// # Errors
    /// It does not; for people.
    pub(super) fn recognize(&self, life: &Life, id: u64, manifest: &Manifest) -> Result<(), String> {
        let mut modules = lock(&self.modules);
        // One that is gone meanwhile is closed by whoever finds that.
        let Some(module) = modules.get_mut(&id).filter(|module| *module.manifest != *manifest) else { return Ok(()) };
        let why = format!(
            "module {} is in quarantine: it says something else of itself when it is loaded again; a new deployment lifts it",
            module.name
        );
        tracing::error!("{why}");
        module.quarantine.impose(why.clone());
        drop(modules);
        self.close_in(life, id);
        Err(why)
    }

    pub(super) fn set_onloaded(&self, id: u64, onloaded: bool) {
        if let Some(loaded) = lock(&self.modules).get_mut(&id) {
            loaded.onloaded = onloaded;
        }
    }

    pub(super) fn add_run(&self, number: u64, run: Run) {
        lock(&self.runs).insert(number, run);
    }

    pub(super) fn remove_run(&self, number: u64) {
        lock(&self.runs).remove(&number);
    }

    /// The modules whose jobs run in `life`.
    pub(super) fn running_in(&self, life: &Life) -> Vec<u64> {
        let runs = lock(&self.runs);
        runs.values().filter(|run| run.life.number() == life.number()).map(|run| run.instance).collect()
    }

    /// The life that the job runs in.
    pub(super) fn life_of_job(&self, uuid: &str) -> Option<Arc<Life>> {
        lock(&self.runs).values().find(|run| run.uuid == uuid).map(|run| Arc::clone(&run.life))
    }

    /// Passes a question on to the run it is of, if that is in `life`.
    pub(super) fn ask_run(&self, life: &Life, run: u64, question: RunQuestion) -> bool {
        let runs = lock(&self.runs);
        let run = runs.get(&run).filter(|run| run.life.number() == life.number());
        run.is_some_and(|run| run.sender.send(question).is_ok())
    }

    /// Asks for another life in the place of `life`. Asked again it is the same question.
    pub(super) fn want_replacement(&self, life: &Life, why: &str) {
        if life.doom() {
            let _ = self.events.send(Event::Replace { life: life.number(), why: why.to_owned() });
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Ends all lives.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.changed.notify_all();
        let _ = self.events.send(Event::Look);
        for life in self.lives() {
            life.hang_up();
        }
    }
}
