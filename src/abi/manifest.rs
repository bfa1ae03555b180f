//! The declaration of a module, free of pointers: read from its `config` symbol.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bit of [`RouteDecl::flags`] and [`WebSocketDecl::flags`]: the handler is short and may run on the shard thread itself
/// (`CWEB_INLINE` in `include/cweb.h`).
pub const FLAG_INLINE: i32 = 1;

/// Bit of [`RouteDecl::flags`]: the route is called before a WebSocket is opened on its path (`CWEB_HANDSHAKE`).
const FLAG_HANDSHAKE: i32 = 128;

/// Bits of [`RouteDecl::flags`] that `include/wafer/wafer_glue.c` sets: the route is called when no other route
/// matches; its calls run one at a time; it never declines. Routes that may decline are called before a route that
/// never declines.
const FLAG_FALLBACK: i32 = 2;
const FLAG_SERIAL: i32 = 4;
const FLAG_FINAL: i32 = 8;
/// These three flags have an effect in an app for nope.c or WAFer only: in any other module they are ignored.
pub(super) const APP_FLAGS: i32 = FLAG_FALLBACK | FLAG_SERIAL | FLAG_FINAL;

/// Bit of [`RouteDecl::flags`]: the handler takes the body piece by piece (`CWEB_STREAM`).
pub const FLAG_STREAM: i32 = 16;
/// Bit of [`RouteDecl::flags`]: the handler gets the request's body without its content coding (`CWEB_DECODE`).
const FLAG_DECODE: i32 = 32;
/// Bit of [`RouteDecl::flags`] and [`WebSocketDecl::flags`]: answers or messages are never compressed (`CWEB_NO_COMPRESS`).
const FLAG_NO_COMPRESS: i32 = 64;

/// Bit of [`RouteDecl::flags`]: each call runs in a process of its own, which is killed at the call's deadline
/// (`CWEB_KILLABLE`).
pub const FLAG_KILLABLE: i32 = i32::MIN;

/// Bits of [`RouteDecl::flags`] that hold the route's own time-out in seconds (`CWEB_TIMEOUT_S`).
const TIMEOUT_SHIFT: u32 = 8;
const TIMEOUT_MASK: i32 = 0xfff;

/// Bits of [`RouteDecl::flags`] that hold the route's own body limit in MiB (`CWEB_BODY_MIB`).
const BODY_SHIFT: u32 = 20;
const BODY_MASK: i32 = 0x7ff;

/// The arguments of a module's functions: its `cweb_module_api` (`include/cweb_host.h`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// Handlers take the request and the response, callbacks take a socket, hooks take nothing.
    TwoArguments,
    /// All functions take the context first.
    #[default]
    ThreeArguments,
    /// Like [`Api::ThreeArguments`]; the module is an app for nope.c or WAFer, which only one call at a time may enter.
    Wafer,
}

impl Api {
    /// The value of the marker; `None` for a marker of a later version.
    #[must_use]
    pub fn of(marker: u32) -> Option<Self> {
        match marker {
            2 => Some(Self::TwoArguments),
            3 => Some(Self::ThreeArguments),
            4 => Some(Self::Wafer),
            _ => None,
        }
    }
}

/// A module's own declaration (`module_t` in `include/cweb.h`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Unique name, 1 to 127 bytes.
    pub name: String,
    /// Free text, at most 127 bytes.
    pub author: String,
    /// HTTP routes in the order of their declaration; within a module the first match wins.
    pub routes: Vec<RouteDecl>,
    /// WebSocket paths in the order of their declaration.
    pub websockets: Vec<WebSocketDecl>,
    /// Background jobs.
    pub jobs: Vec<JobDecl>,
    /// Whether `onload` is set.
    pub has_onload: bool,
    /// Whether `unload` is set.
    pub has_unload: bool,
    /// Whether `on_setting` is set.
    #[serde(default)]
    pub has_on_setting: bool,
    /// Unreadable parts of the declaration, a sentence each; such a module is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Declared parts without effect, a sentence each; such a module is served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The arguments of the functions. A record without this field is older than the choice; its module is compiled again.
    #[serde(default)]
    pub api: Api,
    /// The limits of the module's project.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
}

/// The limits of a project, below those of the server (`[limits]` in `module.toml`); 0: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Limit on the time of a handler, in milliseconds.
    pub handler_time_ms: u64,
    /// Limit, in bytes, on the body of a request.
    pub body_bytes: u64,
    /// Limit on simultaneous runs of each job.
    pub job_concurrency: u32,
}

impl Limits {
    /// Whether no limit is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The server's limits for routes without limits of their own. A project's limits apply where they are lower. Written once,
/// before any module is loaded; no other access is ordered by them.
static HANDLER_TIME_MS: AtomicU64 = AtomicU64::new(u64::MAX);
static BODY_BYTES: AtomicU64 = AtomicU64::new(u64::MAX);

/// Sets the limits of this process for routes without limits of their own.
pub fn set_server_limits(handler_time_ms: u64, body_bytes: usize) {
    HANDLER_TIME_MS.store(handler_time_ms, Ordering::Relaxed);
    BODY_BYTES.store(u64::try_from(body_bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// The lower one of the route's own limit and the project's; the project's counts only below the `server` limit for routes
/// without one.
fn lower(own: Option<u64>, projects: u64, server: u64) -> Option<u64> {
    match own {
        _ if projects == 0 => own,
        Some(own) => Some(own.min(projects)),
        None => (projects < server).then_some(projects),
    }
}

/// The owner of the limit that applies to the body of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLimitOf {
    /// The server's limit, for routes without their own.
    Server,
    /// The route's own limit.
    Route,
    /// The project's limit.
    Project,
}

/// One entry of `module_t.routes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteDecl {
    /// POSIX extended regular expression, anchored at both ends.
    pub path: String,
    /// Method name in upper case.
    pub method: String,
    /// Flag bits, see [`FLAG_INLINE`].
    pub flags: i32,
    /// Whether the handler pointer is set; a route without one is refused.
    pub has_handler: bool,
    /// A directory to serve instead of calling a handler (`module_t.mounts`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<Mount>,
    /// The limits of the project.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
}

/// One entry of `module_t.mounts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The path below which the files are served.
    pub prefix: String,
    /// The directory with the files.
    pub dir: String,
}

impl RouteDecl {
    /// Whether the handler may run on the shard's thread.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        self.flags & FLAG_INLINE != 0 && !self.is_stream()
    }

    /// Whether the handler is called once the head has arrived, and takes the body piece by piece.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.flags & FLAG_STREAM != 0
    }

    /// Whether each call runs in a process of its own, if modules have one.
    #[must_use]
    pub fn is_killable(&self) -> bool {
        self.flags & FLAG_KILLABLE != 0
    }

    /// Whether the route is called before a WebSocket is opened on its path, and for no other request.
    #[must_use]
    pub fn is_handshake(&self) -> bool {
        self.flags & FLAG_HANDSHAKE != 0
    }

    /// Whether the route is called only when no other module's route matches. Such a handler may decline.
    #[must_use]
    pub fn is_fallback(&self) -> bool {
        self.flags & FLAG_FALLBACK != 0
    }

    /// Whether the route serves a directory on all paths.
    #[must_use]
    pub fn is_root_mount(&self) -> bool {
        self.mount.as_ref().is_some_and(|mount| mount.prefix.trim_end_matches('/').is_empty())
    }

    /// Whether the route only gets requests that no other route of any module matches. Such a route is a fallback route, or a
    /// mount on `/`, which never declines.
    #[must_use]
    pub fn is_asked_last(&self) -> bool {
        self.is_fallback() || self.is_root_mount()
    }

    /// Whether the calls of the module's routes of this kind run one at a time.
    #[must_use]
    pub fn is_serial(&self) -> bool {
        self.flags & FLAG_SERIAL != 0
    }

    /// Whether the handler never declines.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.flags & FLAG_FINAL != 0
    }

    /// Whether the handler gets the request's body without its content coding.
    #[must_use]
    pub fn decodes(&self) -> bool {
        self.flags & FLAG_DECODE != 0
    }

    /// Whether answers may be compressed.
    #[must_use]
    pub fn may_compress(&self) -> bool {
        self.flags & FLAG_NO_COMPRESS == 0
    }

    /// The time limit of the handler: the route's own, or the project's.
    #[must_use]
    pub fn timeout_ms(&self) -> Option<u64> {
        let seconds = u64::try_from((self.flags >> TIMEOUT_SHIFT) & TIMEOUT_MASK).unwrap_or_default();
        let own = (seconds > 0).then_some(seconds * 1000);
        lower(own, self.limits.handler_time_ms, HANDLER_TIME_MS.load(Ordering::Relaxed))
    }

    /// The owner of the limit [`RouteDecl::body_bytes_max`].
    #[must_use]
    pub fn body_limit_of(&self) -> BodyLimitOf {
        let projects = usize::try_from(self.limits.body_bytes).unwrap_or(usize::MAX);
        match self.body_bytes_max() {
            Some(limit) if limit == projects => BodyLimitOf::Project,
            Some(_) => BodyLimitOf::Route,
            None => BodyLimitOf::Server,
        }
    }

    /// The limit, in bytes, on the body of a request: the route's own, or the project's.
    #[must_use]
    pub fn body_bytes_max(&self) -> Option<usize> {
        let mib = u64::try_from((self.flags >> BODY_SHIFT) & BODY_MASK).unwrap_or_default();
        // The server has no limit for a body that the module reads in pieces.
        let server = if self.is_stream() { u64::MAX } else { BODY_BYTES.load(Ordering::Relaxed) };
        let bytes = lower((mib > 0).then_some(mib << 20), self.limits.body_bytes, server)?;
        Some(usize::try_from(bytes).unwrap_or(usize::MAX))
    }
}

/// One entry of `module_t.websockets`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebSocketDecl {
    /// Literal path.
    pub path: String,
    /// Whether `on_open` is set.
    pub has_on_open: bool,
    /// Whether `on_message` is set.
    pub has_on_message: bool,
    /// Whether `on_close` is set.
    pub has_on_close: bool,
    /// Flag bits, see [`FLAG_INLINE`].
    #[serde(default)]
    pub flags: i32,
}

impl WebSocketDecl {
    /// Whether the callbacks may run on the shard's thread.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        self.flags & FLAG_INLINE != 0
    }

    /// Whether messages may be compressed.
    #[must_use]
    pub fn may_compress(&self) -> bool {
        self.flags & FLAG_NO_COMPRESS == 0
    }
}

/// One entry of `module_t.jobs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobDecl {
    /// Name, unique within the module.
    pub name: String,
    /// Whether `run` is set; a job without it is refused.
    pub has_run: bool,
    /// Whether `cancel` is set.
    pub has_cancel: bool,
    /// Limit on the runs of a job whose runs fail; 0 means the server's default, as for the fields below.
    #[serde(default)]
    pub max_attempts: u32,
    /// Pause before the second run; doubles with each further run.
    #[serde(default)]
    pub backoff_ms: u32,
    /// Limit on the time of a run.
    #[serde(default)]
    pub timeout_ms: u32,
    /// Jobs with a higher priority run first.
    #[serde(default)]
    pub priority: i32,
    /// Limit on simultaneous runs of this job.
    #[serde(default)]
    pub concurrency: u32,
    /// The schedule of the job: a cron text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The time zone of the cron text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// The payload of the scheduled jobs: JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_payload: Option<String>,
    /// Whether a slot's job may be created while the previous slot's job has not ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub schedule_overlap: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_a_route() {
        let route = |flags| RouteDecl { flags, ..RouteDecl::default() };
        let parts = |flags| (route(flags).is_inline(), route(flags).timeout_ms(), route(flags).body_bytes_max());
        assert_eq!(parts(0), (false, None, None));
        assert_eq!(parts(FLAG_INLINE), (true, None, None));
        assert_eq!(parts(0b1111_1110), (false, None, None), "bits of later versions mean nothing yet");
        assert_eq!(parts(1 << 8), (false, Some(1000), None));
        assert_eq!(parts(4095 << 8 | 1), (true, Some(4_095_000), None));
        assert_eq!(parts(2047 << 20), (false, None, Some(2047 << 20)));
        assert_eq!(parts(i32::MAX & !0xff), (false, Some(4_095_000), Some(2047 << 20)));
        assert_eq!(parts(FLAG_KILLABLE | 2 << 8 | 3 << 20), (false, Some(2000), Some(3 << 20)));
        assert!(route(FLAG_KILLABLE | 1 << 8).is_killable() && !route(i32::MAX).is_killable());
    }

    #[test]
    fn a_project_lowers_limits_and_raises_none() {
        for (own, projects, server, counts) in [
            (None, 0, 30, None),
            (Some(50), 0, 30, Some(50)),
            (None, 10, 30, Some(10)),
            (None, 40, 30, None),
            (Some(50), 40, 30, Some(40)),
            (Some(5), 40, 30, Some(5)),
        ] {
            assert_eq!(lower(own, projects, server), counts, "{own:?} {projects} {server}");
        }
        let limits = Limits { handler_time_ms: 500, body_bytes: 10, job_concurrency: 0 };
        let route = RouteDecl { flags: 2 << 8 | 1 << 20, limits, ..RouteDecl::default() };
        assert_eq!((route.timeout_ms(), route.body_bytes_max()), (Some(500), Some(10)));
    }
}
