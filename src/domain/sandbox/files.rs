//! Landlock: restricts access to files, and TCP, signals and abstract sockets to the sandbox.
//!
//! Landlock grants access to what a path is when the rules are made, so a later rename or link grants nothing. Landlock
//! does not hide files: a process can ask whether a file exists. Landlock does not cover chmod(2) and similar calls; see
//! `calls`.

use super::{Policy, SandboxError};
use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, Scope, path_beneath_rules,
};

/// The newest version that this code was tested with; on an older kernel the crate leaves out unknown rights.
const TESTED: ABI = ABI::V7;

/// Rules that are ready to be enforced: their paths are open.
pub(super) struct Rules {
    ruleset: RulesetCreated,
    abi: i64,
}

impl Rules {
    pub(super) fn new(policy: &Policy) -> Result<Self, SandboxError> {
        let all = AccessFs::from_all(TESTED);
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        // Neither programs nor devices may be created in a sandbox.
        let write = all & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
        let mut ruleset = Ruleset::default().handle_access(all)?.scope(Scope::from_all(TESTED))?;
        if !policy.network {
            ruleset = ruleset.handle_access(AccessNet::from_all(TESTED))?;
        }
        let ruleset = ruleset
            .create()?
            .add_rules(path_beneath_rules(&policy.read, read))?
            .add_rules(path_beneath_rules(&policy.execute, read | AccessFs::Execute))?
            .add_rules(path_beneath_rules(&policy.write, write))?
            .add_rules(path_beneath_rules(policy.traces_itself.then_some("/proc/self"), read))?;
        Ok(Self { ruleset, abi: abi() })
    }

    /// The kernel's version of Landlock; 0 for none.
    pub(super) fn abi(&self) -> i64 {
        self.abi
    }

    /// Confines the calling thread. Returns the missing layer, if the kernel lacks it.
    pub(super) fn enforce(self) -> Result<Option<&'static str>, SandboxError> {
        let RestrictionStatus { landlock, .. } = self.ruleset.restrict_self()?;
        Ok(match landlock {
            LandlockStatus::Available { .. } => None,
            _ => Some(LANDLOCK),
        })
    }
}

const LANDLOCK: &str = "landlock";

/// The result of `landlock_create_ruleset(2)` with `LANDLOCK_CREATE_RULESET_VERSION`; 0 if Landlock is missing.
pub(super) fn abi() -> i64 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the kernel takes a null pointer and a size of 0, and creates nothing.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) }.max(0)
}

/// The missing layer, if the kernel has no Landlock, or has it disabled.
pub(super) fn missing() -> Option<&'static str> {
    (abi() == 0).then_some(LANDLOCK)
}
