//! The limits of a project; the server compiles them into the project's module.

use crate::abi::manifest::{Limits, Manifest};
use libloading::os::unix::Library;

/// Number of words of `cweb_module_limits`; the first word is this number.
const WORDS: usize = 4;

/// The source text that adds `limits` to a module, placed behind a source of its own.
#[must_use]
pub fn source(limits: &Limits) -> String {
    if limits.is_empty() {
        return String::new();
    }
    format!(
        "\n\n#ifdef __cplusplus\nextern \"C\" {{\n#endif\n\
         extern const unsigned long long cweb_module_limits[{WORDS}] __attribute__((visibility(\"default\")));\n\
         const unsigned long long cweb_module_limits[{WORDS}] = {{{WORDS}, {}, {}, {}}};\n\
         #ifdef __cplusplus\n}}\n#endif\n",
        limits.handler_time_ms, limits.body_bytes, limits.job_concurrency
    )
}

/// Names of the limits and the highest value of each, as `module.toml` allows; 0: no limit.
const MOST: [(&str, u64); WORDS - 1] =
    [("handler_time_ms", 4_095_000), ("body_bytes", 2_147_483_647), ("job_concurrency", 1_000_000)];

/// Lowers the limits that the module declares to those in `library`, if it has any.
pub(super) fn apply(library: &Library, manifest: &mut Manifest) {
    // SAFETY: only the address is taken here.
    let Ok(symbol) = (unsafe { library.get::<*const [u64; WORDS]>(b"cweb_module_limits\0") }) else { return };
    let words = symbol.as_raw_ptr().cast_const().cast::<[u64; WORDS]>();
    if words.is_null() {
        return;
    }
    // SAFETY: the server's generated source defines the symbol with this type. An author's own symbol may be shorter: the read
    // then stays in the same object, or faults in the process of the inspection, which reads the symbol first.
    let [count, handler_time_ms, body_bytes, job_concurrency] = unsafe { words.read_unaligned() };
    if usize::try_from(count) != Ok(WORDS) {
        manifest.problems.push(format!(
            "cweb_module_limits says that it has {count} words, and this server knows {WORDS}: the count, handler_time_ms, body_bytes, \
             job_concurrency; leave the symbol out for no limits"
        ));
        return;
    }
    for ((name, most), value) in MOST.iter().zip([handler_time_ms, body_bytes, job_concurrency]) {
        if value > *most {
            let range = format!("it must be from 1 to {most}, or 0 for no limit");
            manifest.problems.push(format!("cweb_module_limits: {name} = {value} can't be a limit: {range}"));
        }
    }
    let limits =
        Limits { handler_time_ms, body_bytes, job_concurrency: u32::try_from(job_concurrency).unwrap_or(u32::MAX) };
    for route in &mut manifest.routes {
        route.limits = limits;
    }
    for job in manifest.jobs.iter_mut().filter(|_| limits.job_concurrency > 0) {
        let own = if job.concurrency == 0 { u32::MAX } else { job.concurrency };
        job.concurrency = own.min(limits.job_concurrency);
    }
    manifest.limits = limits;
}
