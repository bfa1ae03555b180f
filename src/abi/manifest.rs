//! What a module declares about itself, free of pointers: read from its `config` symbol.

use serde::{Deserialize, Serialize};

/// Bit of [`RouteDecl::flags`] and [`WebSocketDecl::flags`]: the handler is short and may run on the shard thread itself
/// (`CWEB_INLINE` in `include/cweb.h`).
pub const FLAG_INLINE: i32 = 1;

/// Bit of [`RouteDecl::flags`]: the route is asked before a WebSocket is opened on its path (`CWEB_HANDSHAKE`).
const FLAG_HANDSHAKE: i32 = 128;

/// Bits of [`RouteDecl::flags`] that `include/wafer/wafer_glue.c` sets: the route is asked when no other one matches; its
/// calls run one at a time; it answers whatever it is asked, so that those that may decline are asked before it.
const FLAG_FALLBACK: i32 = 2;
const FLAG_SERIAL: i32 = 4;
const FLAG_FINAL: i32 = 8;
/// The three, which count in an app for nope.c or WAFer only: in the flags of any other module they are ignored.
pub(super) const APP_FLAGS: i32 = FLAG_FALLBACK | FLAG_SERIAL | FLAG_FINAL;

/// Bit of [`RouteDecl::flags`]: the handler takes the body piece by piece (`CWEB_STREAM`).
pub const FLAG_STREAM: i32 = 16;
/// Bit of [`RouteDecl::flags`]: the body of a request is given to the handler without its content coding (`CWEB_DECODE`).
const FLAG_DECODE: i32 = 32;
/// Bit of [`RouteDecl::flags`] and [`WebSocketDecl::flags`]: answers, or messages, are never compressed (`CWEB_NO_COMPRESS`).
const FLAG_NO_COMPRESS: i32 = 64;

/// Bits of [`RouteDecl::flags`] that hold the route's own time-out in seconds (`CWEB_TIMEOUT_S`).
const TIMEOUT_SHIFT: u32 = 8;
const TIMEOUT_MASK: i32 = 0xfff;

/// Bits of [`RouteDecl::flags`] that hold the route's own body limit in MiB (`CWEB_BODY_MIB`).
const BODY_SHIFT: u32 = 20;
const BODY_MASK: i32 = 0x7ff;

/// What the functions of a module take: its `cweb_module_api` (`include/cweb_host.h`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// Handlers take the request and the response, callbacks a socket, hooks nothing.
    TwoArguments,
    /// All take the context first.
    #[default]
    ThreeArguments,
    /// As [`Api::ThreeArguments`]; the module is an app for nope.c or WAFer, which one call at a time may enter.
    Wafer,
}

impl Api {
    /// By the value of the marker; `None` for one of a later version.
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

/// A module's declaration of itself (`module_t` in `include/cweb.h`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Unique name, 1 to 127 bytes.
    pub name: String,
    /// Free text, at most 127 bytes.
    pub author: String,
    /// HTTP routes in the order they were declared; within a module the first match wins.
    pub routes: Vec<RouteDecl>,
    /// WebSocket paths in the order they were declared.
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
    /// What could not be read of it, a sentence each; such a module is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// What is declared and has no effect, a sentence each; such a module is served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What its functions take. A record without it is of a time when there was one kind, and is compiled again.
    #[serde(default)]
    pub api: Api,
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
    /// A directory that is served here instead (`module_t.mounts`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<Mount>,
}

/// One entry of `module_t.mounts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The path that the files are below.
    pub prefix: String,
    /// The directory they are in.
    pub dir: String,
}

impl RouteDecl {
    /// Whether the handler may run on the shard's thread.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        self.flags & FLAG_INLINE != 0 && !self.is_stream()
    }

    /// Whether the handler starts with the head of the request, and takes the body piece by piece.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.flags & FLAG_STREAM != 0
    }

    /// Whether the route is asked before a WebSocket is opened on its path, and answers nothing else.
    #[must_use]
    pub fn is_handshake(&self) -> bool {
        self.flags & FLAG_HANDSHAKE != 0
    }

    /// Whether the route is asked only when no other module's route matches. Such a handler may decline.
    #[must_use]
    pub fn is_fallback(&self) -> bool {
        self.flags & FLAG_FALLBACK != 0
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

    /// Whether the body of a request is given to the handler without its content coding.
    #[must_use]
    pub fn decodes(&self) -> bool {
        self.flags & FLAG_DECODE != 0
    }

    /// Whether answers may be compressed.
    #[must_use]
    pub fn may_compress(&self) -> bool {
        self.flags & FLAG_NO_COMPRESS == 0
    }

    /// The route's own limit for a run of its handler.
    #[must_use]
    pub fn timeout_ms(&self) -> Option<u64> {
        let seconds = u64::try_from((self.flags >> TIMEOUT_SHIFT) & TIMEOUT_MASK).unwrap_or_default();
        (seconds > 0).then_some(seconds * 1000)
    }

    /// The route's own limit for the body of a request.
    #[must_use]
    pub fn body_bytes_max(&self) -> Option<usize> {
        let mib = usize::try_from((self.flags >> BODY_SHIFT) & BODY_MASK).unwrap_or_default();
        (mib > 0).then_some(mib << 20)
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
    /// Whether its callbacks may run on the shard's thread.
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
    /// Runs in all, when they fail; 0 for the server's default. So for the fields below.
    #[serde(default)]
    pub max_attempts: u32,
    /// Wait before the second run; doubles with each further one.
    #[serde(default)]
    pub backoff_ms: u32,
    /// Longest run.
    #[serde(default)]
    pub timeout_ms: u32,
    /// Higher runs first.
    #[serde(default)]
    pub priority: i32,
    /// Most runs of this job at once.
    #[serde(default)]
    pub concurrency: u32,
    /// When it runs without being asked for: a cron text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The time zone of that text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
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
    }
}
