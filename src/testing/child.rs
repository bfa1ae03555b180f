//! The process of a test: `cweb testrun`.

use super::exchange::{Alone, Exchanges};
use super::jobs::Jobs;
use super::lock::lock;
use super::sockets::Sockets;
use super::{Failed, Listed, Order, Ran, Told};
use crate::abi::host;
use crate::abi::rooms::set_outlets;
use crate::abi::sanitizer;
use crate::abi::settings::Settings;
use crate::abi::testing::{TestAnswer, TestCase, TestHost, TestJob, set_test_host};
use crate::abi::websocket::Outlet;
use crate::domain::in_process::{InProcess, InProcessModule};
use crate::domain::{self, DEFAULT_DOMAIN, Host, Instance, inspect, sandbox};
use crate::module::local;
use crate::proto::ws::Kind;
use crate::threads::module_thread;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Limit, in bytes, on an order.
const ORDER_BYTES_MAX: u64 = 1024 * 1024;
/// Interval between two checks for scheduled work.
const LOOK: Duration = Duration::from_millis(1);
/// How long the end of a test waits for scheduled work.
const SETTLE: Duration = Duration::from_secs(2);
/// Limit on the reported failures of a test.
const FAILURES_MAX: usize = 100;

/// The main function of the process, which reads its order from standard input and writes the outcome to standard output.
pub fn main() -> ! {
    let Some(mut out) = inspect::private_stdout() else { inspect::leave(1) };
    let mut text = Vec::new();
    let order = std::io::stdin().take(ORDER_BYTES_MAX).read_to_end(&mut text).map_err(|error| error.to_string());
    let order = order.and_then(|_| serde_json::from_slice::<Order>(&text).map_err(|error| error.to_string()));
    let counts = order.as_ref().is_ok_and(|order| order.counts && order.test.is_some());
    let told = order.and_then(|order| run(&order)).unwrap_or_else(Told::Host);
    let written = serde_json::to_vec(&told).map(|bytes| out.write_all(&bytes));
    let code = i32::from(!matches!(written, Ok(Ok(()))));
    if counts {
        // Runs destructors of the module, which write the coverage counters. The parent waits until `out` is closed.
        std::process::exit(code);
    }
    inspect::leave(code)
}

fn run(order: &Order) -> Result<Told, String> {
    if let Some(policy) = &order.policy {
        policy.clone().apply().map_err(|error| format!("the sandbox of the test: {error}"))?;
    }
    sandbox::end_with_parent();
    if sanitizer::is_active() {
        sanitizer::open_to_itself();
    }
    std::env::set_current_dir(&order.scratch).map_err(|error| format!("{}: {error}", order.scratch.display()))?;
    let host = InProcess::start(&order.scratch.join("modules.sqlite3"), None).map_err(|error| error.to_string())?;
    let sockets = Arc::<Sockets>::default();
    set_outlets(vec![Arc::clone(&sockets) as Arc<dyn Outlet>]);
    let instance = host.load(&order.object, DEFAULT_DOMAIN).map_err(|error| error.to_string())?;
    let module =
        instance.as_any().downcast_ref::<InProcessModule>().ok_or("the module is not loaded in this process")?;
    let tests = module.tests();
    let Some(name) = &order.test else {
        let listed = tests.into_iter().map(|test| Listed { name: test.name, file: test.file, line: test.line });
        return Ok(Told::Tests(listed.collect()));
    };
    let test = tests.iter().find(|test| test.name == *name).ok_or_else(|| format!("there is no test {name}"))?;
    host.published([&instance].into_iter());
    Test::new(order, &instance, sockets)?.run(order, module, test)
}

/// A running test.
#[derive(Clone)]
struct Test {
    instance: Arc<dyn Instance>,
    exchanges: Arc<Exchanges>,
    sockets: Arc<Sockets>,
    jobs: Arc<Jobs>,
    settings: Arc<Mutex<Settings>>,
    ran: Arc<Mutex<Ran>>,
    dir: PathBuf,
}

impl Test {
    fn new(order: &Order, instance: &Arc<dyn Instance>, sockets: Arc<Sockets>) -> Result<Self, String> {
        let table = local::alone(instance, &order.object).map_err(|error| error.to_string())?;
        let alone = Arc::new(Alone(Arc::clone(instance)));
        let exchanges = Exchanges::new(Arc::new(table), alone).map_err(|error| error.to_string())?;
        let dir = order.scratch.join("files");
        std::fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(Self {
            instance: Arc::clone(instance),
            exchanges: Arc::new(exchanges),
            sockets,
            jobs: Arc::default(),
            settings: Arc::new(Mutex::new(Settings(order.settings.clone()))),
            ran: Arc::default(),
            dir,
        })
    }

    fn fail(&self, failed: Failed) {
        let mut ran = lock(&self.ran);
        if ran.failures.len() < FAILURES_MAX {
            ran.failures.push(failed);
        }
    }

    fn fail_with(&self, text: String) {
        self.fail(Failed { text, ..Failed::default() });
    }

    fn run(self, order: &Order, module: &InProcessModule, test: &TestCase) -> Result<Told, String> {
        // Handlers have as much time as their test.
        domain::stream::configure(0, usize::MAX);
        let (jobs, instance) = (Arc::clone(&self.jobs), Arc::clone(&self.instance));
        host::set_create_job(Box::new(move |_, job, payload| jobs.create(&*instance, job, payload)));
        let faults = self.clone();
        module.tell_faults(move |fault| {
            let text = format!("{} failed: {}", fault.place, fault.what);
            faults.fail(Failed { place: None, text, frames: fault.frames, base: fault.base });
        });
        set_test_host(Box::new(self.clone()));
        module.bind_tests();
        let settings = lock(&self.settings).clone();
        self.instance.configure(&settings).map_err(|fault| fault.what)?;
        if let Err(fault) = self.instance.onload() {
            self.fail_with(format!("onload failed: {fault}"));
            return Ok(self.told());
        }
        self.run_test(test)?;
        self.sockets.close_all(&self.exchanges);
        self.settle_within(SETTLE);
        if let Err(fault) = self.instance.unload() {
            self.fail_with(format!("unload failed: {fault}"));
        }
        if order.finds_leaks && sanitizer::has_leaks() {
            self.fail_with("memory leaks: the output has the report".to_owned());
        }
        Ok(self.told())
    }

    /// Runs the test's function on a thread of its own.
    fn run_test(&self, test: &TestCase) -> Result<(), String> {
        let (own, test) = (self.clone(), test.clone());
        let body = move || {
            let module = own.instance.as_any().downcast_ref::<InProcessModule>()?;
            module.run_test(&test).err()
        };
        let thread = module_thread("test").spawn(body).map_err(|error| format!("the test has no thread: {error}"))?;
        let fault = thread.join().map_err(|_| "the test's thread has panicked")?;
        let ran = lock(&self.ran);
        let is_told = !ran.failures.is_empty() || ran.skipped.is_some();
        drop(ran);
        // A failed assertion ends the test like exit(3), and has already reported why.
        if let Some(fault) = fault.filter(|_| !is_told) {
            self.fail_with(format!("the test {fault}"));
        }
        Ok(())
    }

    fn settle_within(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let module = self.instance.as_any().downcast_ref::<InProcessModule>();
        while module.is_some_and(InProcessModule::has_work) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(LOOK);
        }
        true
    }

    fn told(&self) -> Told {
        Told::Ran(lock(&self.ran).clone())
    }
}

impl TestHost for Test {
    fn request(&self, method: &[u8], target: &[u8], headers: &[u8], body: &[u8]) -> TestAnswer {
        self.exchanges.request(method, target, headers, body)
    }

    fn failed(&self, file: &str, line: u32, text: &str) {
        self.fail(Failed { place: Some((file.to_owned(), line)), text: text.to_owned(), ..Failed::default() });
    }

    fn skipped(&self, reason: &str) {
        lock(&self.ran).skipped = Some(reason.to_owned());
    }

    fn set_setting(&self, key: &str, value: Option<&str>) -> bool {
        if crate::module::settings::check_key(key).is_err() {
            return false;
        }
        let mut settings = lock(&self.settings);
        match value {
            Some(value) => drop(settings.0.insert(key.to_owned(), value.to_owned())),
            None => drop(settings.0.remove(key)),
        }
        self.instance.configure(&settings).is_ok()
    }

    fn run_jobs(&self) -> usize {
        self.jobs.run(&self.instance)
    }

    fn job(&self, uuid: &str) -> Option<TestJob> {
        self.jobs.by_uuid(uuid)
    }

    fn job_at(&self, index: usize) -> Option<TestJob> {
        self.jobs.at(index)
    }

    fn open_socket(&self, target: &[u8], headers: &[u8]) -> Result<u64, TestAnswer> {
        self.sockets.open(&self.exchanges, target, headers)
    }

    fn send(&self, socket: u64, kind: Kind, payload: &[u8]) -> bool {
        self.sockets.message(&self.exchanges, socket, kind, payload)
    }

    fn receive(&self, socket: u64, wait: Duration) -> Option<(Kind, Vec<u8>)> {
        self.sockets.receive(socket, wait)
    }

    fn is_closed(&self, socket: u64) -> bool {
        self.sockets.is_closed(socket)
    }

    fn close(&self, socket: u64) {
        self.sockets.close(&self.exchanges, socket);
    }

    fn settle(&self, wait: Duration) -> bool {
        self.settle_within(wait)
    }

    fn dir(&self) -> &Path {
        &self.dir
    }
}
