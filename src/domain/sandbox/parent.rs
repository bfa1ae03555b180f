//! The end of a process with its parent.

/// Makes the kernel kill this process when its parent ends. Must follow [`Policy::apply`](super::Policy::apply), because a change
/// of the user clears the setting.
pub fn end_with_parent() {
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}
