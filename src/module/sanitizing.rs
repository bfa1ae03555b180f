//! Deployments of modules with sanitizers: their domains, and reports that arrive while they are loaded.

use super::control_state::ControlState;
use super::deploy::{DeployError, DeployOptions};
use super::project::Source;
use crate::domain::{DEFAULT_DOMAIN, LoadError, sanitized};
use std::time::{Duration, Instant};

/// How long to wait for reports after a successful load, and after a failed one.
const REPORT_WAIT: Duration = Duration::from_millis(100);
const REPORT_WAIT_FAILED: Duration = Duration::from_secs(2);
/// The interval between two looks for reports.
const REPORT_LOOK: Duration = Duration::from_millis(5);

/// Checks that a module with a sanitizer gets a domain of its own, and that no other module gets such a domain.
pub(super) fn check(
    control: &ControlState,
    source: &Source,
    options: &DeployOptions,
    domain: Option<&str>,
) -> Result<(), DeployError> {
    let refuse = |text: String| Err(DeployError::Load(LoadError::Domain(text)));
    if options.fields.sanitize.is_none() {
        return check_reserved(domain);
    }
    if source.object().is_some() {
        let text = "error: a sanitizer is compiled into a module from its source, and a ready shared object comes without source: \
                    leave sanitize out, or deploy the source\n";
        return Err(DeployError::Compile(text.to_owned()));
    }
    if options.domain.is_some() {
        return refuse("a module with a sanitizer has a domain of its own: leave the domain out".to_owned());
    }
    if control.host.check_domain(&sanitized::domain_of("x")).is_err() {
        let text = "a module with a sanitizer needs a process of its own: start the server with --isolation process";
        return refuse(text.to_owned());
    }
    Ok(())
}

/// Checks that `domain` is not reserved for modules with a sanitizer.
pub(super) fn check_reserved(domain: Option<&str>) -> Result<(), DeployError> {
    if !domain.is_some_and(sanitized::is_one) {
        return Ok(());
    }
    let prefix = sanitized::PREFIX;
    let text = format!("domains whose names begin with {prefix} are reserved for modules with a sanitizer");
    Err(DeployError::Load(LoadError::Domain(text)))
}

/// The domain for the module `name`, which is now in `there`, if the client names none.
///
/// # Errors
/// The versions can't be read.
pub(super) fn domain_of(
    control: &ControlState,
    name: &str,
    is_sanitized: bool,
    there: Option<&str>,
) -> Result<String, DeployError> {
    if is_sanitized {
        return Ok(sanitized::domain_of(name));
    }
    if let Some(there) = there.filter(|there| !sanitized::is_one(there)) {
        return Ok(there.to_owned());
    }
    // The module's last domain without a sanitizer.
    let list = control.ledger.versions(name)?;
    let home = list.into_iter().rev().map(|version| version.domain).find(|domain| !sanitized::is_one(domain));
    Ok(home.unwrap_or_else(|| DEFAULT_DOMAIN.to_owned()))
}

/// Runs `swap`, which loads a module into `domain`. Also returns the reports that arrived meanwhile; for a module that
/// could not be loaded, the error contains them.
pub(super) fn with_reports(
    control: &ControlState,
    domain: &str,
    swap: impl FnOnce() -> Result<u64, DeployError>,
) -> (Result<u64, DeployError>, String) {
    let before = control.host.sanitizer_reports(domain).len();
    let result = swap();
    let reports = reports_since(control, domain, before, result.is_err());
    match result {
        Err(error) if !reports.is_empty() => {
            (Err(DeployError::Compile(format!("error: {error}\n{reports}"))), String::new())
        }
        result => (result, reports),
    }
}

/// The sanitizer reports for `domain` after the first `before` reports. Reports come through a pipe, after the answer to
/// the load command. After a failed load this function waits longer, since a report has the reason.
fn reports_since(control: &ControlState, domain: &str, before: usize, has_failed: bool) -> String {
    let deadline = Instant::now() + if has_failed { REPORT_WAIT_FAILED } else { REPORT_WAIT };
    loop {
        let reports = control.host.sanitizer_reports(domain);
        let fresh = reports.get(before.min(reports.len())..).unwrap_or_default();
        if (has_failed && !fresh.is_empty()) || Instant::now() >= deadline {
            return fresh.iter().map(|report| format!("{}\n", report.trim_end())).collect();
        }
        std::thread::sleep(REPORT_LOOK);
    }
}
