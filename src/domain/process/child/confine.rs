//! The restrictions that a domain's process imposes on itself before it runs foreign code.

use super::Parent;
use crate::abi::{guard, sanitizer};
use crate::domain::process::control::{Start, ToParent};
use crate::domain::process::work::ChildDomain;
use crate::domain::process::workers::{Forker, WorkerHost};
use crate::domain::sandbox::{self, Refusals};
use crate::domain::{Instance, output};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;

/// Drops this process's rights, while it has one thread and before it runs any foreign code.
pub(super) fn confine(start: &Start, core_dir: Option<OwnedFd>) -> io::Result<()> {
    let core_path =
        core_dir.as_ref().map(|dir| fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))).transpose()?;
    let applied = start.policy.clone().apply().map_err(io::Error::other)?;
    sandbox::end_with_parent();
    tracing::debug!("confined; missing: {:?}", applied.missing);
    guard::install()?;
    crate::abi::kept::keep_all();
    guard::limit_threads(start.module_threads_max);
    if let Some((mut dir, path)) = core_dir.zip(core_path) {
        // Opened again in the process's own file tree, because `..` would lead out of the server's.
        rustix::io::dup2(fs::File::open(path)?, &mut dir)?;
        // The descriptor stays open until the process ends.
        guard::leave_cores(dir.into_raw_fd());
    }
    if sanitizer::is_active() {
        // The sanitizer ends the process itself after a finding.
        sanitizer::open_to_itself();
    } else {
        sandbox::trap_ends(guard::EXIT_MARK).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Installs the filters for all threads that may run module code, before they exist. The thread that forks processes for
/// single calls is exempt. `kept` are the descriptors that modules can't close.
pub(super) fn close_in(
    start: &Start,
    kept: &[i32],
    parent: &Arc<Parent>,
    refusals: &Refusals,
) -> io::Result<Option<Arc<WorkerHost>>> {
    let forks = start.policy.starts_workers && !sanitizer::is_active();
    let forker = if forks {
        Some(Forker::start(kept.to_vec(), start.killable_calls_max, start.policy.calls.clone())?)
    } else {
        None
    };
    let confined = if forks { sandbox::no_forks() } else { Ok(()) };
    // These come last, because they refuse further filters.
    confined.and_then(|()| sandbox::keep_open(kept)).and_then(|()| refusals.begin()).map_err(io::Error::other)?;
    let teller = Arc::clone(parent);
    let host = |forker| WorkerHost {
        forker,
        calls_max: start.killable_calls_max,
        calls: AtomicUsize::new(0),
        tell: Box::new(move |fault| teller.send(&ToParent::WorkerFault(fault))),
    };
    Ok(forker.map(host).map(Arc::new))
}

/// Starts the thread that reports refused system calls, in the log and to the module that made them.
pub(super) fn tell_refusals(domain: &Arc<ChildDomain>, refusals: Refusals) -> io::Result<()> {
    let domain = Arc::clone(domain);
    let tell = move |module: u64, sentence: String| match domain.instance(module) {
        Some(module) => output::said(&module.manifest().name, tracing::Level::WARN, &sentence),
        None => tracing::warn!("{sentence}"),
    };
    thread::Builder::new().name("refusals".to_owned()).spawn(move || refusals.each(tell)).map(drop)
}
