//! A crash as JSON, for `GET /mgnt`.

use crate::domain::process::CrashReport;
use serde_json::json;

pub(super) fn crash_json(crash: &CrashReport) -> serde_json::Value {
    serde_json::json!({
        "summary": crash.summary(),
        "modules": crash.modules,
        "what": crash.what,
        "signal": crash.signal,
        "address": crash.address.map(|address| format!("{address:#x}")),
        "frame": crash.frame,
        "backtrace": crash.backtrace,
        "registers": crash.registers.iter().map(|(name, value)| (name.clone(), format!("{value:#x}").into())).collect::<serde_json::Map<_, _>>(),
        "version": crash.version,
        "place": crash.place,
        "caught": crash.caught,
        "at_ms": crash.at_ms,
        "pid": crash.pid,
        "core": crash.core.as_ref().map(|core| json!({
            "path": core.path.display().to_string(),
            "bytes": core.bytes,
            "object": core.object.as_ref().map(|(path, _)| path.display().to_string()),
            "base": core.object.as_ref().map(|(_, base)| format!("{base:#x}")),
        })),
    })
}
