//! The processors and the priority of threads that run module code.

/// Makes the calling thread a background thread: it may run on `cores` (on any core if empty). Its priority is lower
/// than that of shards and companions (`nice` 5), so that CPU-bound handlers don't delay the reactors.
pub(super) fn background_thread(cores: &[core_affinity::CoreId]) {
    // SAFETY: `set` is plain data, zeroed and filled by the libc macros within its size; both calls affect only the
    // calling thread (tid 0 / PRIO_PROCESS with 0 name it), and a failure leaves it as it was.
    unsafe {
        if !cores.is_empty() {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            for core in cores.iter().filter(|core| core.id < libc::CPU_SETSIZE as usize) {
                libc::CPU_SET(core.id, &mut set);
            }
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
        }
        libc::setpriority(libc::PRIO_PROCESS, 0, 5);
    }
}
