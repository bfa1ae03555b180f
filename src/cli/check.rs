//! `cweb check` and `cweb sdk`: commands that need no server.

use super::client::{GREEN, RED, YELLOW, coloured};
use super::deploy::{has_only_tests, no_module, renamed};
use super::exit::Failure;
use super::sarif::Report;
use crate::module::deploy::SourceFields;
use crate::module::local::{self, Checked};
use crate::module::project::{self, Posted};
use clap::Args;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct CheckArgs {
    /// Sources, and directories of projects. Files that have tests (CWEB_TEST) and no module are skipped
    #[arg(required = true, value_name = "FILE|DIR")]
    files: Vec<PathBuf>,
    /// Print the diagnostics as SARIF 2.1.0, for editors and CI
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct SdkArgs {
    /// Print the flags with which an editor or a compiler finds the headers
    #[arg(long)]
    cflags: bool,
}

/// A temporary directory; dropping this value removes it.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new() -> std::io::Result<Self> {
        let dir = env::temp_dir().join(format!("cweb-check-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn check(args: &CheckArgs) -> ExitCode {
    let failed =
        if args.json { reported(&args.files) } else { args.files.iter().filter(|file| !check_one(file)).count() };
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints a SARIF report and returns the number of faulty files.
fn reported(files: &[PathBuf]) -> usize {
    let (mut report, mut failed) = (Report::default(), 0);
    for file in files.iter().filter(|file| !has_only_tests(file)) {
        match checked(file) {
            Ok(found) => report.add(file, &renamed(&found.warnings, file), false),
            Err(text) => {
                report.add(file, &renamed(&text, file), true);
                failed += 1;
            }
        }
    }
    println!("{:#}", report.json());
    failed
}

/// Checks one file, prints the result, and returns whether the file is correct.
pub(super) fn check_one(file: &Path) -> bool {
    if has_only_tests(file) {
        println!("{} {}", coloured(YELLOW, "skipped"), no_module(file));
        return true;
    }
    match checked(file) {
        Ok(found) => {
            let manifest = &found.manifest;
            println!("{} {}: module {}", coloured(GREEN, "ok"), file.display(), manifest.name);
            for library in &found.libraries {
                println!("  {:7} {} {}", "LIBRARY", library.name, library.version);
            }
            for route in &manifest.routes {
                println!("  {:7} {}", route.method, route.path);
            }
            for socket in &manifest.websockets {
                println!("  {:7} {}", "WS", socket.path);
            }
            for job in &manifest.jobs {
                println!("  {:7} {}", "JOB", job.name);
            }
            if !found.warnings.trim().is_empty() {
                println!("{}\n{}", coloured(YELLOW, "warnings:"), renamed(found.warnings.trim_end(), file));
            }
            true
        }
        Err(text) => {
            println!("{} {}\n{}", coloured(RED, "wrong"), file.display(), renamed(text.trim_end(), file));
            false
        }
    }
}

fn checked(file: &Path) -> Result<Checked, String> {
    let scratch = Scratch::new().map_err(|error| format!("a directory for the check can't be made: {error}"))?;
    let mut fields = SourceFields::default();
    let bytes = if file.is_dir() {
        project::pack_dir(file)?
    } else {
        fields.file_name = file.file_name().map(|name| name.to_string_lossy().into_owned());
        fs::read(file).map_err(|error| error.to_string())?
    };
    local::check(Posted::Body(bytes), &fields, &scratch.0).map_err(|error| error.to_string())
}

/// The directory of the headers for editors.
fn headers_dir() -> Option<PathBuf> {
    let named = |variable| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")))?;
    cache.is_absolute().then(|| cache.join("cweb"))
}

/// The flags of an editor, one each.
pub(super) fn editor_flags() -> Result<Vec<String>, String> {
    let dir = headers_dir().ok_or("the headers need a directory: set XDG_CACHE_HOME or HOME")?;
    let headers = local::headers(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let include = format!("-I{}", headers.display());
    Ok([include.as_str(), "-Wall", "-Wno-unknown-pragmas"].map(str::to_owned).to_vec())
}

pub(super) fn sdk(args: &SdkArgs) -> ExitCode {
    match editor_flags() {
        Ok(flags) if args.cflags => println!("{}", flags.join(" ")),
        Ok(flags) => println!("{}", flags.first().map_or("", |flag| flag.trim_start_matches("-I"))),
        Err(text) => return Failure::from(text).end(),
    }
    ExitCode::SUCCESS
}
