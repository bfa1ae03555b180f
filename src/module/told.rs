//! The answer of `GET /mgnt`: the modules and their domains.

use super::control::Control;
use super::crash_json::crash_json;
use super::table::Published;
use crate::domain::{DomainView, MemoryLimit};
use serde_json::json;
use std::time::SystemTime;

impl Control {
    /// The answer of `GET /mgnt`; `memory` describes the server's own memory.
    #[must_use]
    pub fn modules_json(&self, memory: &serde_json::Value) -> String {
        let table = self.table();
        let table = table.load();
        let modules: Vec<serde_json::Value> = table.modules().iter().map(|module| self.module_json(module)).collect();
        let domains: Vec<serde_json::Value> = self.domains().iter().map(domain_json).collect();
        json!({ "modules": modules, "domains": domains, "pid": std::process::id(), "memory": memory }).to_string()
    }

    /// The present domains; none where modules run in the server.
    #[must_use]
    pub fn domains(&self) -> Vec<DomainView> {
        self.control().host.domains()
    }

    fn module_json(&self, module: &Published) -> serde_json::Value {
        let manifest = module.manifest();
        let mut json = json!({
            "name": manifest.name,
            "author": manifest.author,
            "path": self.control().config.module_dir.to_string_lossy(),
            "module_hash": module.hash(),
            "routes": manifest.routes.iter().map(|r| json!({"path": r.path, "method": r.method})).collect::<Vec<_>>(),
            "websockets": manifest.websockets.iter().map(|w| json!({"path": w.path})).collect::<Vec<_>>(),
            "jobs": manifest.jobs.iter().map(|j| json!({"name": j.name})).collect::<Vec<_>>(),
            "domain": module.domain(),
        });
        if let (Some(why), Some(fields)) = (module.quarantine(), json.as_object_mut()) {
            fields.insert("quarantine".to_owned(), why.into());
        }
        json
    }
}

fn ms_since_1970(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn domain_json(domain: &DomainView) -> serde_json::Value {
    json!({
        "name": domain.name,
        "pid": domain.pid,
        "modules": domain.modules,
        "requests": domain.requests,
        "restarts": domain.restarts,
        "resident_bytes": domain.resident_bytes,
        "memory_limit": domain.memory_limit.map(MemoryLimit::name),
        "replacements": domain.replacements,
        "up_since_ms": domain.up_since.map(ms_since_1970),
        "last_crash": domain.last_crash.as_ref().map(crash_json),
    })
}
