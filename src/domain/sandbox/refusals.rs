//! Logs calls that the filter has refused to the calling process.
//!
//! A refused call arrives as SIGSYS on the thread that made it. The handler (`abi/native/guard.c`) writes the call and the
//! module to a pipe, once for each such pair, and makes the call return its error. A thread reads the pipe and reports. The
//! pipe's content is a hint, since foreign code in the process can write to the pipe, too.

use super::error::system;
use super::{Policy, SandboxError, calls, files};
use crate::abi::guard;
use std::collections::HashSet;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};

/// Limit on the reported refusals of one process.
const TOLD_MAX: usize = 256;

/// The refusals of this process.
#[derive(Debug)]
pub struct Refusals {
    policy: Policy,
    reader: PipeReader,
    writer: RawFd,
}

impl Refusals {
    /// Creates the pipe, whose descriptors must stay open: see [`Refusals::descriptors`].
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn new(policy: Policy) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        // A handler that waited would block its thread.
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK)?;
        // The descriptor is never closed, because the handler may run at any time.
        Ok(Self { policy, reader, writer: writer.into_raw_fd() })
    }

    /// The descriptors of the pipe.
    #[must_use]
    pub fn descriptors(&self) -> [RawFd; 2] {
        [self.reader.as_raw_fd(), self.writer]
    }

    /// Starts noting refusals. The process must have applied its policy and must have one thread. No filter can be
    /// installed afterwards. Does nothing without seccomp.
    ///
    /// # Errors
    /// The handler or the filters can't be installed.
    pub fn begin(&self) -> Result<(), SandboxError> {
        guard::note_refusals(self.writer).map_err(system("handling SIGSYS"))?;
        calls::install(&calls::trapped(&self.policy, files::abi())?).map(drop)
    }

    /// Calls `tell` for each refusal, with the number of the module (0 for none) and a sentence. Never returns while the
    /// process lives.
    pub fn each(self, tell: impl Fn(u64, String)) {
        let Self { policy, mut reader, .. } = self;
        let (mut told, mut note) = (HashSet::new(), [0; guard::REFUSAL_BYTES]);
        while told.len() < TOLD_MAX && reader.read_exact(&mut note).is_ok() {
            let (module, call) = guard::refusal(note);
            if told.insert((module, call)) {
                tell(module, sentence(&policy, call));
            }
        }
    }
}

fn sentence(policy: &Policy, call: i64) -> String {
    let name = calls::name(call);
    let conditions = if calls::is_conditional(policy, call) { " with these arguments" } else { "" };
    if policy.connects && calls::is_network(call) {
        // The flag for this call by name would grant more than the list of destinations.
        return format!(
            "the system call {name} is refused{conditions} (EPERM): a list of --allow-net grants only connections by TCP"
        );
    }
    let network = if calls::is_network(call) && !policy.network { "--allow-net, or " } else { "" };
    format!(
        "the system call {name} is refused{conditions} (EPERM); {network}--allow-syscall {name} grants it to all modules"
    )
}
