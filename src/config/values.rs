//! Types of settings: names, time spans, and ranges of numbers.

use clap::ValueEnum;
use serde::Deserialize;
use std::fmt::{Display, Formatter};
use std::str::FromStr;

/// The available reactors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reactor {
    /// io_uring, or epoll if the kernel refuses io_uring.
    Monoio,
    /// The server's own runtime over io_uring, or monoio if the kernel can't keep polls armed.
    Native,
    /// Not available in this build; the server refuses to start with an explanation.
    Glommio,
}

/// Where modules run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// In a sandboxed process of their own.
    Process,
    /// In the server's process.
    None,
}

/// The strength of the sandbox around modules; each level includes the levels before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequireSandbox {
    /// A process of its own, a user without rights, limits.
    Basic,
    /// Also Landlock and seccomp.
    Landlock,
    /// Also namespaces.
    Namespaces,
}

/// Which domains share a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleDatabase {
    /// Each domain has its own.
    Domain,
    /// All domains share one.
    Shared,
}

/// The modules whose jobs a module may create and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleJobs {
    /// Modules of the same domain.
    Domain,
    /// All modules.
    All,
}

/// When a change of a job counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A change is on the disk: it survives a power failure (SQLite's `synchronous = FULL`).
    Full,
    /// The kernel has the change: it survives the end of the server, but not of the machine (`synchronous = NORMAL`).
    Normal,
}

/// A time span: whole seconds, or a number with one of the suffixes s, m, h, d, w.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SpanText")]
pub struct Span {
    /// The length in seconds.
    pub seconds: u64,
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (digits, factor) = match text.char_indices().last() {
            Some((at, 's')) => (&text[..at], 1),
            Some((at, 'm')) => (&text[..at], 60),
            Some((at, 'h')) => (&text[..at], 60 * 60),
            Some((at, 'd')) => (&text[..at], DAY_S),
            Some((at, 'w')) => (&text[..at], 7 * DAY_S),
            _ => (text, 1),
        };
        let count = digits.parse::<u64>().ok();
        let seconds = count.and_then(|count| count.checked_mul(factor));
        seconds
            .map(|seconds| Self { seconds })
            .ok_or_else(|| format!("\"{text}\" is not a time span: write seconds, or a number with s, m, h, d or w"))
    }
}

/// The forms of a [`Span`] in a settings file.
#[derive(Deserialize)]
#[serde(untagged)]
enum SpanText {
    Seconds(u64),
    Text(String),
}

impl TryFrom<SpanText> for Span {
    type Error = String;

    fn try_from(text: SpanText) -> Result<Self, String> {
        match text {
            SpanText::Seconds(seconds) => Ok(Self { seconds }),
            SpanText::Text(text) => text.parse(),
        }
    }
}

/// A day in seconds.
pub(super) const DAY_S: u64 = 24 * 60 * 60;

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self.seconds {
            seconds if seconds > 0 && seconds % DAY_S == 0 => write!(f, "{}d", seconds / DAY_S),
            seconds => write!(f, "{seconds}"),
        }
    }
}

/// Formats a value for the help.
pub(super) trait Shown {
    fn shown(&self) -> String;
}

macro_rules! numbers {
    ($($type:ty),*) => {
        $(
            impl Shown for $type {
                fn shown(&self) -> String {
                    self.to_string()
                }
            }

            impl Number for $type {
                fn number(&self) -> u64 {
                    u64::try_from(*self).unwrap_or(u64::MAX)
                }
            }
        )*
    };
}

macro_rules! names {
    ($($type:ty),*) => {
        $(
            impl Shown for $type {
                fn shown(&self) -> String {
                    self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
                }
            }
        )*
    };
}

numbers!(u16, u32, u64, usize);
names!(Reactor, Isolation, ModuleDatabase, ModuleJobs, Durability);

impl Shown for Span {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for String {
    fn shown(&self) -> String {
        self.clone()
    }
}

impl Shown for Vec<String> {
    fn shown(&self) -> String {
        self.join(",")
    }
}

/// A setting with a numeric value.
pub(super) trait Number {
    fn number(&self) -> u64;
}

/// The valid numbers of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    /// Whether 0 is valid, too; it means "no limit".
    zero: bool,
    min: u64,
    max: u64,
}

pub(super) const fn at_least(min: u64) -> Range {
    Range { zero: false, min, max: u64::MAX }
}

pub(super) const fn between(min: u64, max: u64) -> Range {
    Range { zero: false, min, max }
}

pub(super) const fn zero_or(min: u64) -> Range {
    Range { zero: true, min, max: u64::MAX }
}

impl Range {
    /// The error if `value` is not valid for the flag of the field `name`.
    pub(super) fn problem(self, name: &str, value: u64) -> Option<String> {
        if (self.min..=self.max).contains(&value) || self.zero && value == 0 {
            return None;
        }
        let flag = name.replace('_', "-");
        Some(match self {
            Self { zero: true, min, .. } => format!("--{flag} must be 0 or at least {min}"),
            Self { min, max: u64::MAX, .. } => format!("--{flag} must be at least {min}"),
            Self { min, max, .. } => format!("--{flag} must be from {min} to {max}"),
        })
    }
}
