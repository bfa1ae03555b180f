//! Landlock: which files may be touched, and no TCP, signals or abstract sockets beyond the sandbox.
//!
//! Landlock grants by what a path is when the rules are made, so a later rename or link opens nothing. It does not hide:
//! whether a file exists can be asked. Nor does it cover chmod(2) and the like; see `calls`.

use super::{Policy, SandboxError};
use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, Scope, path_beneath_rules,
};

/// The newest version that this code was tested with; on an older kernel the crate leaves out what it lacks.
const TESTED: ABI = ABI::V7;

/// Rules that are ready to be enforced: the paths are open.
pub(super) struct Rules {
    ruleset: RulesetCreated,
    abi: i64,
}

impl Rules {
    pub(super) fn new(policy: &Policy) -> Result<Self, SandboxError> {
        let all = AccessFs::from_all(TESTED);
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        // Neither programs nor devices come to be in a sandbox.
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

    /// The kernel's version of landlock; 0 for none.
    pub(super) fn abi(&self) -> i64 {
        self.abi
    }

    /// Confines the calling thread. Returns what the kernel lacks.
    pub(super) fn enforce(self) -> Result<Option<&'static str>, SandboxError> {
        let RestrictionStatus { landlock, .. } = self.ruleset.restrict_self()?;
        Ok(match landlock {
            LandlockStatus::Available { .. } => None,
            _ => Some(LANDLOCK),
        })
    }
}

const LANDLOCK: &str = "landlock";

/// `landlock_create_ruleset(2)` with `LANDLOCK_CREATE_RULESET_VERSION`; 0 when there is none.
pub(super) fn abi() -> i64 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the kernel takes a null pointer and a size of 0, and makes nothing.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) }.max(0)
}

/// Whether the kernel has no landlock, or has it switched off.
pub(super) fn missing() -> Option<&'static str> {
    (abi() == 0).then_some(LANDLOCK)
}
