//! Descriptions of faults.

/// The reason why module code did not return normally.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    /// A text for people: `"SIGSEGV at 0x0 (…)"`, `"called exit(3)"`, `"did not return within 5000 ms"`.
    pub what: String,
}

/// The name of a signal, as in signal(7).
#[must_use]
pub(super) fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGILL => "SIGILL",
        libc::SIGABRT => "SIGABRT",
        libc::SIGKILL => "SIGKILL",
        libc::SIGTERM => "SIGTERM",
        libc::SIGSYS => "SIGSYS",
        libc::SIGSTOP => "SIGSTOP",
        libc::SIGTRAP => "SIGTRAP",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

impl Fault {
    /// The fault of signal `signal` at `address`.
    #[must_use]
    pub fn signal(signal: i32, address: usize, stack_overflow: bool) -> Self {
        let name = signal_name(signal);
        let what = match signal {
            _ if stack_overflow => format!("stack overflow ({name} at address {address:#x})"),
            libc::SIGABRT => "called abort()".to_owned(),
            libc::SIGSEGV | libc::SIGBUS => format!("{name} at address {address:#x}"),
            _ => name,
        };
        Self { what }
    }

    /// The fault of a call of exit(3) or a similar function.
    #[must_use]
    pub fn exit(code: i32) -> Self {
        Self { what: format!("called exit({code})") }
    }
}

/// The resource that the process has used up, if the loader's message `text` says so.
pub(super) fn exhausted(text: &str) -> Option<&'static str> {
    let reasons = [
        ("static TLS block", "the memory for thread-local variables of the initial-exec model (static TLS)"),
        ("Too many open files", "the descriptors that it may open"),
        ("Cannot allocate memory", "the memory that it may map"),
        ("cannot allocate memory", "the memory that it may map"),
        ("failed to map segment", "the memory that it may map"),
        ("cannot create", "the memory that it may map"),
    ];
    reasons.iter().find(|(words, _)| text.contains(words)).map(|(_, what)| *what)
}

/// The answer in place of a handler's.
#[derive(Debug)]
pub(super) struct NoAnswer {
    /// The HTTP status.
    pub(super) status: u16,
    /// The reason, for the client.
    pub(super) text: String,
}

impl NoAnswer {
    /// An answer with status 500.
    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self { status: 500, text: text.into() }
    }
}

impl From<(u16, String)> for NoAnswer {
    fn from((status, text): (u16, String)) -> Self {
        Self { status, text }
    }
}
