//! The directory of one compilation, and the processes that are started in it beforehand.

use super::super::deploy::DeployError;
use super::super::dialect::Language;
use super::super::sdk;
use super::{Compiler, settle};
use crate::domain::sandbox::program::{self, Held, Spare};
use crate::net;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The number of processes that are started beforehand: a compiler and a linker.
const LAUNCHERS: usize = 2;

/// The directory of one compilation.
#[derive(Debug)]
pub(in crate::module) struct Workdir {
    path: PathBuf,
    launchers: Vec<Spare>,
    has_sdk: bool,
}

impl Workdir {
    /// Wraps the directory `path`, which must be empty and belong to the caller alone.
    pub(in crate::module) fn new(path: PathBuf) -> Self {
        Self { path, launchers: Vec::new(), has_sdk: false }
    }

    pub(in crate::module) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the SDK unless it is already there, and returns its directory.
    pub(super) fn sdk(&mut self) -> io::Result<PathBuf> {
        if self.has_sdk {
            return Ok(sdk::dir_in(&self.path));
        }
        let sdk = sdk::unpack(&self.path)?;
        self.has_sdk = true;
        Ok(sdk)
    }

    /// Makes the next use check the SDK again, because a compiler that has run might have changed it.
    pub(super) fn distrust_sdk(&mut self) {
        self.has_sdk = false;
    }

    /// The program of `command`, waiting in its sandbox; `command` must start in this directory.
    pub(super) fn held(&mut self, command: &mut Command) -> io::Result<Held> {
        if let Some(mut launcher) = self.launchers.pop()
            && launcher.fits(command)
        {
            return Ok(launcher.held(command));
        }
        // The command needs another sandbox, or no prepared process is left.
        Held::start(net::keep_descriptors_from(command))
    }
}

impl Compiler {
    /// Prepares `path`, an empty directory of the caller's, for a later compilation: writes the SDK and starts processes,
    /// waiting in their sandboxes, that become the compiler and the linker.
    ///
    /// # Errors
    /// A file can't be written, or a process can't be started.
    pub(in crate::module) fn prepare(&self, path: PathBuf) -> Result<Workdir, DeployError> {
        let mut workdir = Workdir::new(path);
        workdir.sdk()?;
        self.hand_over(&workdir.path)?;
        for _ in 0..LAUNCHERS {
            let policy = self.policy(&self.program(Language::C)?);
            let mut command = program::spare_command(&policy)?;
            settle(&mut command).current_dir(&workdir.path);
            workdir.launchers.push(Spare::start(net::keep_descriptors_from(&mut command))?);
        }
        Ok(workdir)
    }
}
