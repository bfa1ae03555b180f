//! The schedules that a module declares: `job_info_t.schedule` of its config, and `[[schedules]]` of its `module.toml`.

use super::deploy::DeployError;
use super::project::{Project, ScheduleTable, Source};
use super::project_files::PROJECT_FILE;
use crate::abi::manifest::Manifest;
use crate::jobs::SCHEDULE_PAYLOAD_BYTES_MAX;
use crate::jobs::cron::{Cron, ZONE_DEFAULT};
use crate::jobs::store::ScheduleSpec;
use std::collections::BTreeSet;

/// Limit on the schedules of one module.
const SCHEDULES_MAX: usize = 64;
/// Limit, in bytes, on the name of a schedule.
const NAME_BYTES_MAX: usize = 128;

/// The schedules that the module of `source` and `manifest` declares.
///
/// # Errors
/// [`DeployError::Compile`], with a line for each problem: an entry of `module.toml` is invalid, or two schedules have the
/// same name. The check of the manifest covers the schedules of the config.
pub(super) fn declared(source: &Source, manifest: &Manifest) -> Result<Vec<ScheduleSpec>, DeployError> {
    let spec = |name: &str, job: &str, cron: &str, zone: Option<&str>| ScheduleSpec {
        name: format!("{}/{name}", manifest.name),
        module: manifest.name.clone(),
        job: job.to_owned(),
        cron: cron.to_owned(),
        zone: zone.unwrap_or(ZONE_DEFAULT).to_owned(),
        payload: "{}".to_owned(),
        overlap: false,
        declared: true,
    };
    let of_config = manifest.jobs.iter().filter_map(|job| {
        let cron = job.schedule.as_deref()?;
        let plain = spec(&job.name, &job.name, cron, job.timezone.as_deref());
        let payload = job.schedule_payload.clone().unwrap_or(plain.payload);
        Some(ScheduleSpec { payload, overlap: job.schedule_overlap, ..plain })
    });
    let mut all: Vec<ScheduleSpec> = of_config.collect();
    let mut problems = String::new();
    if let Source::Project(project) = source {
        for table in &project.settings.schedules {
            let name = table.name.as_ref().unwrap_or(&table.job);
            let payload = table.check(project, manifest).unwrap_or_else(|problem| {
                problems.push_str(&format!("error: {problem}\n"));
                String::new()
            });
            let zone = table.timezone.as_ref().map(|zone| zone.get_ref().as_str());
            let plain = spec(name.get_ref(), table.job.get_ref(), table.cron.get_ref(), zone);
            all.push(ScheduleSpec { payload, overlap: table.overlap, ..plain });
        }
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = all.iter().find(|spec| !seen.insert(&spec.name)) {
        problems
            .push_str(&format!("error: two schedules are called {:?}: give one of them another name\n", twice.name));
    }
    if all.len() > SCHEDULES_MAX {
        problems.push_str(&format!("error: the module declares more than {SCHEDULES_MAX} schedules\n"));
    }
    if problems.is_empty() { Ok(all) } else { Err(DeployError::Compile(problems)) }
}

impl ScheduleTable {
    /// Checks the entry and returns its payload as JSON.
    fn check(&self, project: &Project, manifest: &Manifest) -> Result<String, String> {
        let text = project.files.get(PROJECT_FILE).map(Vec::as_slice).unwrap_or_default();
        let at = |start: usize, key: &str, why: String| {
            let line = 1 + text.iter().take(start).filter(|byte| **byte == b'\n').count();
            format!("{PROJECT_FILE}:{line}: schedules: {key}: {why}")
        };
        let job = self.job.get_ref();
        if !manifest.jobs.iter().any(|known| known.name == *job) {
            return Err(at(self.job.span().start, "job", format!("the module has no job {job:?}")));
        }
        let name = self.name.as_ref().unwrap_or(&self.job);
        if name.get_ref().is_empty() || name.get_ref().len() > NAME_BYTES_MAX || name.get_ref().contains('/') {
            let why = format!("a schedule's name has 1 to {NAME_BYTES_MAX} bytes and no slash");
            return Err(at(name.span().start, "name", why));
        }
        // The zone is checked first, by itself, so that the error names the zone's line.
        let zone = self.timezone.as_ref().map_or(ZONE_DEFAULT, |zone| zone.get_ref().as_str());
        if let (Some(named), Err(why)) = (&self.timezone, Cron::parse("@daily", zone)) {
            return Err(at(named.span().start, "timezone", why));
        }
        Cron::parse(self.cron.get_ref(), zone).map_err(|why| at(self.cron.span().start, "cron", why))?;
        let Some(payload) = &self.payload else { return Ok("{}".to_owned()) };
        let json = json_of(payload.get_ref()).to_string();
        if json.len() > SCHEDULE_PAYLOAD_BYTES_MAX {
            let why = format!("it has {} bytes as JSON; the limit is {SCHEDULE_PAYLOAD_BYTES_MAX}", json.len());
            return Err(at(payload.span().start, "payload", why));
        }
        Ok(json)
    }
}

/// A TOML value as JSON; dates and times become strings.
fn json_of(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(truth) => (*truth).into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.iter().map(json_of).collect(),
        toml::Value::Table(table) => table.iter().map(|(key, value)| (key.clone(), json_of(value))).collect(),
    }
}
