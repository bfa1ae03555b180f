//! `cweb test`

use super::client::{GREEN, RED, YELLOW, coloured};
use super::deploy::{compiled_as, renamed_as};
use super::exit::{Exit, Failure};
use crate::abi::visible::visible;
use crate::module::deploy::{DeployError, SourceFields};
use crate::module::instruments::{Instruments, Sanitizer};
use crate::module::local::{self, TestBuild};
use crate::module::project::{self, Posted};
use crate::testing::run::{Outcome, Setup};
use crate::testing::{Listed, coverage, junit, tools};
use clap::Args;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Limit on tests that run at once.
const PARALLEL_MAX: usize = 64;

#[derive(Args)]
pub(super) struct TestArgs {
    /// A source, or the directory of a project
    #[arg(value_name = "FILE|DIR")]
    target: PathBuf,
    /// Run only the tests whose names contain this text
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// List the tests and run none
    #[arg(long)]
    list: bool,
    /// Time limit of a test, in ms [default: 10000; under valgrind 20 times as much]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    timeout_ms: Option<u64>,
    /// Number of tests that run at once [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=PARALLEL_MAX as u64))]
    jobs: Option<u64>,
    /// Write a report in JUnit's XML format
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Show the output of passed tests, too
    #[arg(long)]
    output: bool,
    /// Find memory errors and leaks (AddressSanitizer)
    #[arg(long)]
    asan: bool,
    /// Find undefined behaviour (UndefinedBehaviorSanitizer)
    #[arg(long)]
    ubsan: bool,
    /// Find data races (ThreadSanitizer)
    #[arg(long, conflicts_with_all = ["asan", "valgrind"])]
    tsan: bool,
    /// Run the tests under valgrind
    #[arg(long, conflicts_with_all = ["asan", "ubsan"])]
    valgrind: bool,
    /// Show which lines the tests have executed (gcov)
    #[arg(long)]
    coverage: bool,
}

/// Runs the tests. Exit codes: 0: all passed; 1: some failed; 2: they could not be built, or the command line is wrong.
pub(super) fn run(args: &TestArgs) -> ExitCode {
    match tested(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => Exit::Failed.into(),
        Err(text) => Failure::new(Exit::Usage, text).end(),
    }
}

fn tested(args: &TestArgs) -> Result<bool, String> {
    let valgrind = args.valgrind.then(|| tools::find("valgrind", "valgrind")).transpose()?;
    if args.coverage {
        coverage::gcov()?;
    }
    let scratch = super::check::Scratch::new().map_err(|error| format!("a directory can't be made: {error}"))?;
    Setup::open(&scratch.0).map_err(|error| format!("{}: {error}", scratch.0.display()))?;
    let build = build(args, &scratch.0)?;
    if !build.warnings.trim().is_empty() {
        println!("{}\n{}", coloured(YELLOW, "warnings:"), shown(build.warnings.trim_end(), &args.target));
    }
    let setup = setup(args, &build, &scratch.0, valgrind)?;
    let all = setup.list().map_err(|text| shown(&text, &args.target))?;
    let tests: Vec<&Listed> =
        all.iter().filter(|test| args.filter.as_ref().is_none_or(|text| test.name.contains(text))).collect();
    if tests.is_empty() {
        return Err(no_tests(args, all.len()));
    }
    if args.list {
        for test in &tests {
            println!("{} ({}:{})", test.name, source_name(&test.file, &args.target), test.line);
        }
        return Ok(true);
    }
    let outcomes = run_all(args, &setup, &tests);
    let passed = summary(&outcomes);
    if let Some(path) = &args.junit {
        let name = args.target.display().to_string();
        fs::write(path, junit::report(&name, &outcomes)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if let Some(counters) = setup.counters.as_ref() {
        let name = |file: &str| source_name(file, &args.target);
        println!("\n{}", coverage::table(&build.dir, counters, &build.files, name)?.trim_end());
    }
    Ok(passed)
}

fn no_tests(args: &TestArgs, all: usize) -> String {
    match &args.filter {
        Some(text) if all > 0 => format!("no name of the {all} tests contains {text:?} (--filter)"),
        _ => format!(
            "{} has no tests: #include <cweb_test.h> and write CWEB_TEST(name) {{ ... }} in the source, or in a project in \
             files named *_test.c or in tests/",
            args.target.display()
        ),
    }
}

fn instruments(args: &TestArgs) -> Instruments {
    let wanted = [(args.asan, Sanitizer::Address), (args.ubsan, Sanitizer::Undefined), (args.tsan, Sanitizer::Thread)];
    Instruments {
        tests: true,
        sanitizers: wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, sanitizer)| sanitizer).collect(),
        halts: true,
        coverage: args.coverage,
        unoptimized: args.valgrind,
    }
}

/// The files to compile: a project, or a source together with its `NAME_test.c` if that exists.
fn posted(target: &Path, fields: &mut SourceFields) -> Result<Posted, String> {
    let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    if target.is_dir() {
        return project::pack_dir(target).map(Posted::Body);
    }
    let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let source = read(target)?;
    if let Some(path) = beside(target) {
        let beside = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        return Ok(Posted::Files(vec![(name, source), (beside, read(&path)?)]));
    }
    fields.file_name = Some(name);
    Ok(Posted::Body(source))
}

/// The file `NAME_test.c` beside the source `NAME.c`, if it exists.
fn beside(target: &Path) -> Option<PathBuf> {
    let name = target.file_name()?.to_str()?;
    let (stem, extension) = name.rsplit_once('.')?;
    let path = target.with_file_name(format!("{stem}_test.{extension}"));
    (!stem.ends_with("_test") && path.is_file()).then_some(path)
}

fn build(args: &TestArgs, dir: &Path) -> Result<TestBuild, String> {
    let mut fields = SourceFields::default();
    let posted = posted(&args.target, &mut fields)?;
    local::build_tests(posted, &fields, &instruments(args), dir).map_err(|error| match error {
        DeployError::Compile(text) => shown(text.trim_end(), &args.target),
        error => error.to_string(),
    })
}

/// A text about the files of a module, with the user's file names.
fn shown(text: &str, target: &Path) -> String {
    sources(target).into_iter().fold(text.to_owned(), |text, (names, file)| {
        // Places in reports of crashes and of tools.
        let name = file.display().to_string();
        names.iter().fold(renamed_as(&text, &names, &file), |text, compiled| {
            let text = text.replace(&format!("({compiled}:"), &format!("({name}:"));
            text.replace(&format!(" {compiled}:"), &format!(" {name}:"))
        })
    })
}

/// The single sources that are compiled, with the names that the compiler may give them. The files of a project keep their
/// names.
fn sources(target: &Path) -> Vec<(Vec<String>, PathBuf)> {
    if target.is_dir() {
        return Vec::new();
    }
    let beside = beside(target).map(|path| (path.file_name().map(|name| name.to_string_lossy().into_owned()), path));
    let beside = beside.map(|(name, path)| (name.into_iter().collect(), path));
    [(compiled_as(target), target.to_path_buf())].into_iter().chain(beside).collect()
}

/// The user's name of a source: the compiler uses another name for a single source.
fn source_name(file: &str, target: &Path) -> String {
    let found = sources(target).into_iter().find(|(names, _)| names.iter().any(|name| name == file));
    found.map_or_else(|| file.to_owned(), |(_, path)| path.display().to_string())
}

fn setup(args: &TestArgs, build: &TestBuild, dir: &Path, valgrind: Option<PathBuf>) -> Result<Setup, String> {
    let sanitizers = instruments(args).sanitizers;
    let mut variables = tools::environment(&sanitizers, &build.preload, &build.dir);
    let mut counters = None;
    if args.coverage {
        let path = dir.join("counters");
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        variables.extend(coverage::environment(&build.dir, &path));
        counters = Some(path);
    }
    let factor = if args.valgrind { u64::from(tools::VALGRIND_FACTOR) } else { 1 };
    Ok(Setup {
        object: build.object.clone(),
        dir: dir.to_path_buf(),
        settings: BTreeMap::clone(&build.settings),
        variables,
        valgrind,
        counters,
        finds_leaks: args.asan,
        limit: Duration::from_millis(args.timeout_ms.unwrap_or(10_000 * factor)),
    })
}

/// Runs all tests, some at once, and prints the results in the order of the tests.
fn run_all(args: &TestArgs, setup: &Setup, tests: &[&Listed]) -> Vec<Outcome> {
    let cores = thread::available_parallelism().map_or(1, usize::from).min(PARALLEL_MAX);
    let workers = args.jobs.and_then(|jobs| usize::try_from(jobs).ok()).unwrap_or(cores).min(tests.len());
    let (next, (sender, receiver)) = (AtomicUsize::new(0), mpsc::channel());
    let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
    let work = |sender: &mpsc::Sender<(usize, Outcome)>| {
        // Relaxed: the counter guards no other data, and `fetch_add` gives each number to one thread.
        while let Some((number, test)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|number| Some((number, *tests.get(number)?)))
        {
            let _ = sender.send((number, setup.run(test)));
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers {
            let sender = sender.clone();
            let work = &work;
            if thread::Builder::new().name("test".to_owned()).spawn_scoped(scope, move || work(&sender)).is_err() {
                break;
            }
        }
        // If no thread could be started, this thread runs the tests.
        if workers == 0 {
            work(&sender);
        }
        drop(sender);
        let mut told = 0;
        for (number, outcome) in receiver {
            outcomes.insert(number, outcome);
            while let Some(outcome) = outcomes.get(&told) {
                tell(args, outcome);
                told += 1;
            }
        }
    });
    outcomes.into_values().collect()
}

fn tell(args: &TestArgs, outcome: &Outcome) {
    let name = &outcome.test.name;
    let elapsed_ms = outcome.elapsed.as_millis();
    if outcome.is_skipped() {
        println!("{}  {name}: {}", coloured(YELLOW, "skip"), outcome.skipped.as_deref().unwrap_or_default());
    } else if outcome.failures.is_empty() {
        println!("{}    {name} ({elapsed_ms} ms)", coloured(GREEN, "ok"));
    } else {
        println!("{}  {name} ({elapsed_ms} ms)", coloured(RED, "FAIL"));
    }
    for failure in &outcome.failures {
        println!("      {}", visible(&shown(failure, &args.target)));
    }
    if args.output || !outcome.failures.is_empty() {
        for line in outcome.output.lines() {
            println!("      | {}", visible(&shown(line, &args.target)));
        }
    }
}

/// Prints how many tests passed. Returns whether none failed.
fn summary(outcomes: &[Outcome]) -> bool {
    let failed = outcomes.iter().filter(|outcome| !outcome.failures.is_empty()).count();
    let skipped = outcomes.iter().filter(|outcome| outcome.is_skipped()).count();
    let passed = outcomes.len() - failed - skipped;
    let skipped = if skipped == 0 { String::new() } else { format!(", {skipped} skipped") };
    println!("{passed} passed, {failed} failed{skipped}");
    failed == 0
}
