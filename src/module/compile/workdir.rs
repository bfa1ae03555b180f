//! The directory that a compilation happens in, and what is started for it beforehand.

use super::super::deploy::DeployError;
use super::super::dialect::Language;
use super::super::sdk;
use super::{Compiler, settle};
use crate::domain::sandbox::program::{self, Held, Spare};
use crate::net;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Processes that are started beforehand: one compiles, one links.
const LAUNCHERS: usize = 2;

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::module) struct Workdir {
    path: PathBuf,
    launchers: Vec<Spare>,
    has_sdk: bool,
}

impl Workdir {
    /// The directory `path`, which is empty and the caller's.
    pub(in crate::module) fn new(path: PathBuf) -> Self {
        Self { path, launchers: Vec::new(), has_sdk: false }
    }

    pub(in crate::module) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the SDK, if it is not there yet, and returns its directory.
    pub(super) fn sdk(&mut self) -> io::Result<PathBuf> {
        if self.has_sdk {
            return Ok(sdk::dir_in(&self.path));
        }
        let sdk = sdk::unpack(&self.path)?;
        self.has_sdk = true;
        Ok(sdk)
    }

    /// Has the SDK be looked at again before the next use: a compiler that has run might have changed it.
    pub(super) fn distrust_sdk(&mut self) {
        self.has_sdk = false;
    }

    /// The program of `command`, which is to start in this directory and waits in its sandbox.
    pub(super) fn held(&mut self, command: &mut Command) -> io::Result<Held> {
        if let Some(mut launcher) = self.launchers.pop()
            && launcher.fits(command)
        {
            return Ok(launcher.held(command));
        }
        // Another sandbox is wanted, or none waits.
        Held::start(net::keep_descriptors_from(command))
    }
}

impl Compiler {
    /// Gets `path`, an empty directory of the caller's, ready for a compilation that comes later: with the SDK in it, and with
    /// processes in their sandboxes that become the compiler and the linker.
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
