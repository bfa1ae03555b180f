//! How a run of the compiler has ended.

use super::Compiler;
use crate::domain::sandbox::program::{self, NotRun};
use crate::module::deploy::DeployError;
use crate::module::dialect::Language;
use std::io;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

/// The time for which a compiler that finds too many processes runs again, and the pause before each run.
const AGAIN_FOR: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(250);

/// Whether a line of the compiler says that it could not start a process that it needs. Lines about a source begin with the
/// name of its file, or with a blank: an author can write any text there.
fn lacks_process(line: &str) -> bool {
    let is_of_program = line.split(':').next().is_some_and(|first| !first.starts_with(' ') && !first.contains('.'));
    is_of_program
        && ["fork: Resource temporarily unavailable", "posix_spawn failed: Resource temporarily unavailable"]
            .iter()
            .any(|text| line.contains(text))
}

impl Compiler {
    /// Runs `compile` again while there are as many processes as there may be, and no longer than [`AGAIN_FOR`], nor after
    /// `deadline`: a project has many units.
    ///
    /// # Errors
    /// The errors of the last run of `compile`.
    pub(super) fn again_if_crowded<T>(
        deadline: Instant,
        mut compile: impl FnMut() -> Result<T, DeployError>,
    ) -> Result<T, DeployError> {
        let until = deadline.min(Instant::now() + AGAIN_FOR);
        loop {
            match compile() {
                Err(DeployError::Crowded(_)) if Instant::now() < until => thread::sleep(PAUSE),
                result => return result,
            }
        }
    }

    /// Waits for a running compiler and returns its output.
    pub(super) fn outcome(&self, child: Child, language: Language, deadline: Instant) -> Result<String, DeployError> {
        let (status, output) = self.finish(child, deadline)?;
        let text = String::from_utf8_lossy(&output).into_owned();
        match program::not_run(status.code(), &text) {
            Some(NotRun::Program(error)) => Err(self.not_started(language, error)),
            Some(NotRun::Sandbox(text)) => Err(DeployError::Internal(format!("the compiler's sandbox: {text}"))),
            None if !status.success() => match text.lines().find(|line| lacks_process(line)) {
                Some(line) => Err(DeployError::Crowded(line.to_owned())),
                None => Err(DeployError::Compile(text)),
            },
            None => Ok(text),
        }
    }

    /// The error for a compiler that `error` keeps from starting: too many processes, or a missing program.
    pub(super) fn not_started(&self, language: Language, error: io::Error) -> DeployError {
        if error.kind() == io::ErrorKind::WouldBlock {
            return DeployError::Crowded(format!("the compiler can't be started ({error})"));
        }
        let (name, package) = match language {
            Language::C => ("C", "gcc libc6-dev"),
            Language::Cpp => ("C++", "g++"),
        };
        DeployError::NoCompiler { compiler: self.program_of(language).to_owned(), error, language: name, package }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_is_missing_only_if_its_program_is() {
        let dir = tempfile::tempdir().unwrap();
        let sdk = crate::module::sdk::unpack(dir.path()).unwrap();
        let compiler = Compiler::new(sdk, Duration::from_secs(1), crate::module::libraries::Allowed::Default);
        let of = |errno| compiler.not_started(Language::C, io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::EAGAIN), DeployError::Crowded(_)), "fork(2) finds too many processes");
        assert!(matches!(of(libc::ENOENT), DeployError::NoCompiler { .. }));
    }

    #[test]
    fn a_compiler_without_processes_runs_again_within_bounds() {
        let later = Instant::now() + Duration::from_secs(600);
        let mut runs = 0;
        let result = Compiler::again_if_crowded(later, || {
            runs += 1;
            if runs < 3 { Err(DeployError::Crowded("full".to_owned())) } else { Ok(runs) }
        });
        assert!(matches!(result, Ok(3)));
        let mut runs = 0;
        let refused: Result<(), _> = Compiler::again_if_crowded(later, || {
            runs += 1;
            Err(DeployError::Compile("x".to_owned()))
        });
        assert!(matches!((refused, runs), (Err(DeployError::Compile(_)), 1)));
        let mut runs = 0;
        let late: Result<(), _> = Compiler::again_if_crowded(Instant::now(), || {
            runs += 1;
            Err(DeployError::Crowded("full".to_owned()))
        });
        assert!(matches!((late, runs), (Err(DeployError::Crowded(_)), 1)));
        assert!(lacks_process(
            "cc: fatal error: cannot execute '/usr/libexec/gcc/cc1': vfork: Resource temporarily unavailable"
        ));
        for of_source in [
            "module.c:1:2: error: #error vfork: Resource temporarily unavailable",
            "    1 | fork: Resource temporarily unavailable",
        ] {
            assert!(!lacks_process(of_source), "{of_source}");
        }
    }
}
