//! Running the system's C compiler.
//!
//! A source decides which files the compiler reads (`#include`, `.incbin`) and how long it works, so the compiler runs in a
//! sandbox. The sandbox shows the system's programs, headers and libraries, and the scratch directory with a copy of the
//! SDK. Paths in the scratch directory are relative, since the compiler's user may not be allowed to reach it from the
//! root.

mod assets;
mod hints;
mod outcome;
mod plan;
mod units;
mod workdir;

pub(super) use plan::Plan;
pub(super) use units::UnitCache;
pub(super) use workdir::Workdir;

use super::deploy::{DeployError, SourceFields};
use super::dialect::{Language, Recipe, refusal};
use super::instruments::{self, Instruments};
use super::libraries::{Allowed, Libraries};
use super::project::Source;
use super::{sdk, shared_object};
use crate::domain::sandbox::program;
use crate::domain::sandbox::{self, Policy, User};
use crate::net;
use crossbeam::channel;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getegid, geteuid, kill_process_group, waitid};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Flags before the source and after the language standard; `include/cweb_config.h` documents them for authors.
/// `-fstack-clash-protection` makes a large frame touch each of its pages, so that the frame can't skip a stack's guard
/// page. `-fstack-protector-strong` ends a handler that has overwritten its own frame. Frame pointers let profilers see
/// callers.
const FLAGS: [&str; 7] =
    ["-O2", "-g", "-fPIC", "-Wall", "-fstack-clash-protection", "-fstack-protector-strong", "-fno-omit-frame-pointer"];
/// Flags after the source. `-Bsymbolic` binds a module's calls to its own definitions, also where libc has the name
/// (`login`, `send`). `-z defs` reports an undefined function at link time and not at load time. `--wrap` redirects calls
/// of exit(3) and of others with effects beyond the module to the SDK. `--as-needed` applies to the libraries after it.
const LINK_FLAGS: [&str; 24] = [
    "-Wl,-Bsymbolic",
    "-Wl,-z,defs",
    "-Wl,--wrap=exit",
    "-Wl,--wrap=_exit",
    "-Wl,--wrap=_Exit",
    "-Wl,--wrap=quick_exit",
    "-Wl,--wrap=err",
    "-Wl,--wrap=errx",
    "-Wl,--wrap=verr",
    "-Wl,--wrap=verrx",
    "-Wl,--wrap=error",
    "-Wl,--wrap=error_at_line",
    "-Wl,--wrap=pthread_exit",
    "-Wl,--wrap=thrd_exit",
    "-Wl,--wrap=freopen",
    "-Wl,--wrap=freopen64",
    "-Wl,--wrap=fclose",
    "-Wl,--as-needed",
    "-ljansson",
    "-lsqlite3",
    "-lssl",
    "-lcrypto",
    "-lm",
    "-lpthread",
];

/// clang, unlike gcc, counts a pointer that loses its `const` among incompatible pointers; this flag keeps that a warning.
const CLANG_FLAG: &str = "-Wno-error=incompatible-pointer-types-discards-qualifiers";

/// Limit, in bytes, on a compiler's diagnostics; the rest is cut.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Limit, in bytes, on the memory of each compiler process.
const MEMORY_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Limit, in bytes, on each file that the compiler writes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Approximate limit on the processes of all compilers together. Large, because the kernel also counts the threads that modules
/// of the same user start meanwhile.
const PROCESSES_MAX: u64 = 4096;
/// Limit on the files that a compiler process has open at once.
const OPEN_FILES_MAX: u64 = 512;

/// The environment variables that the compiler inherits. A source must not see any other, above all the admin key.
const ENVIRONMENT: [&str; 7] =
    ["PATH", "CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "LD_LIBRARY_PATH", "GCC_EXEC_PREFIX", "COMPILER_PATH"];

/// The configured compiler, and the identity of its results.
#[derive(Debug)]
pub(super) struct Compiler {
    program: String,
    /// The C++ compiler that belongs to `program`.
    cpp_program: String,
    sdk_dir: PathBuf,
    identity: String,
    is_clang: bool,
    limit: Duration,
    user: Option<User>,
    libraries: Libraries,
    /// Limit, in bytes, on a ready shared object; `None`: the server refuses ready shared objects.
    objects_bytes_max: Option<usize>,
}

impl Compiler {
    /// The compiler `CC` or `cc`, with the SDK in `sdk_dir`. Sources may name the libraries in `allowed`.
    pub(super) fn new(sdk_dir: PathBuf, limit: Duration, allowed: Allowed) -> Self {
        let named = |variable| std::env::var(variable).ok().filter(|program| !program.is_empty());
        let program = named("CC").unwrap_or_else(|| "cc".to_owned());
        // A compiler that does not report its version now has no cached results that could be mixed up with another
        // compiler's.
        let mut version = Command::new(&program);
        version.arg("--version").stdin(Stdio::null()).stderr(Stdio::null());
        let version = net::keep_descriptors_from(&mut version).output();
        let version = version.map(|output| output.stdout).unwrap_or_default();
        let identity = format!("{program}\n{}\n{}", String::from_utf8_lossy(&version), sdk::hash());
        let is_clang = String::from_utf8_lossy(&version).contains("clang");
        let cpp_program = named("CXX").unwrap_or_else(|| plan::cpp_program(&program));
        let (user, libraries) = (sandbox::unprivileged(), Libraries::new(allowed));
        Self { program, cpp_program, sdk_dir, identity, is_clang, limit, user, libraries, objects_bytes_max: None }
    }

    /// Also takes ready shared objects of at most `bytes_max` bytes; `None` refuses them.
    pub(super) fn with_objects(self, bytes_max: Option<usize>) -> Self {
        Self { objects_bytes_max: bytes_max, ..self }
    }

    fn program_of(&self, language: Language) -> &str {
        match language {
            Language::C => &self.program,
            Language::Cpp => &self.cpp_program,
        }
    }

    /// Reads `source`, which came with `fields`, and finds the libraries that the source names.
    ///
    /// # Errors
    /// A pragma, a flag or a library is wrong, not allowed or not installed.
    pub(super) fn plan(&self, source: &Source, fields: &SourceFields) -> Result<Plan, DeployError> {
        let wrong = |text: String| DeployError::Compile(format!("error: sanitize: {text}\n"));
        let instruments = Instruments::on_server(fields.sanitize.as_deref()).map_err(wrong)?;
        self.plan_with(source, fields, &instruments)
    }

    /// Like [`Compiler::plan`], for a module with `instruments`.
    ///
    /// # Errors
    /// As [`Compiler::plan`].
    pub(super) fn plan_with(
        &self,
        source: &Source,
        fields: &SourceFields,
        instruments: &Instruments,
    ) -> Result<Plan, DeployError> {
        if let Some(object) = source.object() {
            shared_object::check_allowed(object, self.objects_bytes_max)?;
            if *instruments != Instruments::default() {
                let text = "error: tests and sanitizers are compiled into a module from its source; a ready shared object has none\n";
                return Err(DeployError::Compile(text.to_owned()));
            }
            return Ok(Plan::of_object(shared_object::check(object, &self.libraries)?, fields));
        }
        if let Some(at) = source.nul_byte() {
            let text = format!(
                "error: the upload has a NUL byte at offset {at}, so it is neither a C source nor a tar archive\n"
            );
            return Err(DeployError::Compile(text));
        }
        Plan::new(source, fields, &self.libraries, Path::new(&self.program), instruments)
    }

    /// The libraries that must be preloaded into a process that inspects a module of `plan`.
    ///
    /// # Errors
    /// A sanitizer is not installed.
    pub(super) fn preload_of(&self, plan: &Plan) -> Result<Vec<PathBuf>, DeployError> {
        if plan.fields().sanitize.is_none() {
            return Ok(Vec::new());
        }
        instruments::address_libraries().map_err(DeployError::Compile)
    }

    /// The libraries that must be preloaded into a process that runs modules with `instruments`.
    ///
    /// # Errors
    /// A library is not installed; the text names it.
    pub(super) fn preload(&self, instruments: &Instruments) -> Result<Vec<PathBuf>, String> {
        instruments.preload(Path::new(&self.program), self.is_clang)
    }

    /// Names the result of compiling the sources of `plan`: the same key means the same shared object. The key covers the
    /// recipes of all its dialects, since the compilation decides later which dialect applies.
    pub(super) fn key(&self, source: &Source, plan: &Plan) -> String {
        let mut hasher = self.hasher(plan);
        for recipe in plan.reading().recipes().unwrap_or_default() {
            hasher.update(format!("{recipe:?}").as_bytes());
            hasher.update([0]);
        }
        hasher.update(plan.fields().text().as_bytes());
        hasher.update([0]);
        // The object's debug information contains the name: one source under two names gives two objects.
        if let Some(name) = &plan.fields().source_name {
            hasher.update(format!("file:{name}\0"));
        }
        hasher.update(plan.identity().as_bytes());
        source.digest(&mut hasher);
        sdk::hex(&hasher.finalize())
    }

    /// A hasher that holds the inputs of every compilation: compiler, flags and SDK.
    fn hasher(&self, plan: &Plan) -> Sha256 {
        let mut hasher = Sha256::new();
        if plan.is_object() {
            // A ready object involves no compiler; the version of its interface decides whether it fits.
            hasher.update(sdk::hash());
            return hasher;
        }
        hasher.update(self.identity.as_bytes());
        if plan.has_cpp() {
            hasher.update(self.cpp_program.as_bytes());
        }
        for flag in FLAGS.iter().chain(&LINK_FLAGS) {
            hasher.update(flag.as_bytes());
            hasher.update([0]);
        }
        hasher
    }

    /// Compiles `source` to the file `target` within `workdir`. A project is compiled unit by unit, and units in `cache`
    /// are reused. A single file is compiled as the likely dialect, or else as the other one. Calls `begun` once a compiler
    /// works, so that the caller can prepare the inspection meanwhile. Returns the compiler's warnings.
    ///
    /// # Errors
    /// The source compiles as no dialect (the messages are those of the likely one), or the compiler could not be run.
    pub(super) fn compile(
        &self,
        source: &Source,
        plan: &Plan,
        workdir: &mut Workdir,
        target: &str,
        cache: &UnitCache,
        begun: &mut dyn FnMut(),
    ) -> Result<String, DeployError> {
        // One limit covers all attempts and units.
        let deadline = Instant::now() + self.limit;
        let source = match source {
            Source::Project(project) => return self.project(project, plan, (workdir, target), cache, deadline, begun),
            Source::File(object) if plan.is_object() => return self.place(object, plan, &workdir.path().join(target)),
            Source::File(source) => source,
        };
        let (mut refusals, reading) = (Vec::new(), plan.reading());
        let mut begun = Some(begun);
        for recipe in reading.recipes().map_err(DeployError::Compile)? {
            let result = Self::again_if_crowded(deadline, || {
                let child = self.attempt(source, &recipe, plan, workdir, target)?;
                begun.take().into_iter().for_each(|begun| begun());
                self.outcome(child, reading.language(), deadline)
            });
            match result
                .and_then(|text| self.take_back(&workdir.path().join(target)).map(|()| text).map_err(DeployError::from))
            {
                Err(DeployError::Compile(text)) => refusals.push((recipe.dialect, text)),
                other => return other,
            }
        }
        Err(DeployError::Compile(hints::with_hints(refusal::refusal(reading, source, &refusals))))
    }

    /// Writes a ready shared object to the file `path`, in place of a compilation.
    fn place(&self, object: &[u8], plan: &Plan, path: &Path) -> Result<String, DeployError> {
        // The inspection opens the file as the compiler's user.
        path.parent().map_or(Ok(()), |dir| self.hand_over(dir))?;
        fs::write(path, object)?;
        fs::set_permissions(path, Permissions::from_mode(0o644))?;
        Ok(plan.said().to_owned())
    }

    /// Starts the compiler that compiles and links the file `source`.
    fn attempt(
        &self,
        source: &[u8],
        recipe: &Recipe,
        plan: &Plan,
        workdir: &mut Workdir,
        target: &str,
    ) -> Result<Child, DeployError> {
        let dir = workdir.path().to_path_buf();
        let (name, language) = (plan.reading().file(), plan.reading().language());
        let file = dir.join(name);
        // The file is created anew: an earlier run might have left a link with this name.
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => fs::write(&file, [source, recipe.epilogue.as_bytes(), plan.epilogue().as_bytes()].concat())?,
        }
        let sdk = workdir.sdk()?;
        self.hand_over(&dir)?;
        let mut command = self.command(&sdk, language, &plan.cflags(), Some(recipe), program::held_command)?;
        let sdk_name = Path::new(sdk.file_name().unwrap_or_default()).display();
        let sources = recipe.sources.iter().map(|source| format!("{sdk_name}/{source}"));
        command
            .args(["-shared", name])
            .args(sources)
            .args(["-o", target])
            .args(plan.link_flags(self.is_clang))
            .args(&recipe.libraries)
            .args(LINK_FLAGS)
            .current_dir(&dir);
        let held = workdir.held(&mut command).map_err(|error| self.not_started(language, error))?;
        workdir.distrust_sdk();
        held.let_go().ok_or_else(|| DeployError::Internal("the compiler has run before".to_owned()))
    }

    fn spawn(&self, mut command: Command, language: Language) -> Result<Child, DeployError> {
        let not_started = |error| self.not_started(language, error);
        net::keep_descriptors_from(&mut command).spawn().map_err(not_started)
    }

    /// The compiler in its sandbox, with all arguments before the name of the source; `sdk` lies in its working directory.
    /// Without a recipe the command is for linking. `begin` is [`program::command`], or [`program::held_command`] for a
    /// process that waits in its sandbox.
    fn command(
        &self,
        sdk: &Path,
        language: Language,
        cflags: &[String],
        recipe: Option<&Recipe>,
        begin: fn(&Policy, &OsStr) -> io::Result<Command>,
    ) -> Result<Command, DeployError> {
        let program = self.program(language)?;
        let name = Path::new(sdk.file_name().unwrap_or_default()).display();
        let mut command = begin(&self.policy(&program), program.as_os_str())?;
        let cflags = cflags
            .iter()
            .filter(|flag| super::flags::is_for_cpp(flag).is_none_or(|for_cpp| for_cpp == (language == Language::Cpp)));
        // clang does not know this flag.
        let is_known = |flag: &&String| !self.is_clang || *flag != "-fno-gnu-unique";
        command
            .arg(language.standard())
            .args(FLAGS)
            // The author's flags precede those of the recipe, so that an error that the server demands stays an error.
            .args(cflags.clone())
            // A strict standard hides POSIX declarations that the server's headers need.
            .args(cflags.clone().any(|flag| flag.starts_with("-std=c")).then_some("-D_DEFAULT_SOURCE"))
            .args(recipe.iter().flat_map(|recipe| &recipe.flags).filter(is_known))
            // `_FORTIFY_SOURCE` needs optimisation and warns without it; a sanitizer checks more.
            .args(
                cflags
                    .clone()
                    .any(|flag| flag == "-O0" || flag.starts_with("-fsanitize="))
                    .then_some("-U_FORTIFY_SOURCE"),
            )
            .args((self.is_clang && language == Language::C).then_some(CLANG_FLAG))
            .args(recipe.iter().flat_map(|recipe| recipe.include).map(|dir| format!("-I{name}/{dir}")))
            .arg(format!("-I{name}"))
            // Debuggers find the headers after the scratch directory is removed.
            .arg(format!("-fdebug-prefix-map={name}={}", self.sdk_dir.display()));
        settle(&mut command);
        Ok(command)
    }

    fn program(&self, language: Language) -> Result<PathBuf, DeployError> {
        find(self.program_of(language)).map_err(|error| self.not_started(language, error))
    }

    /// The sandbox policy of the compiler `program`.
    fn policy(&self, program: &Path) -> Policy {
        Policy {
            read: sandbox::compiler_inputs(),
            write: vec![".".into(), "/dev/null".into()],
            execute: sandbox::compiler_paths(program),
            exec_allowed: true,
            threads_allowed: true,
            network: false,
            connects: false,
            traces_itself: false,
            starts_workers: false,
            memory_bytes_max: Some(MEMORY_BYTES_MAX),
            // The CPU limit ends a process that survives the end of its group at the deadline.
            cpu_seconds_max: Some(self.limit.as_secs() + 1),
            file_bytes_max: Some(FILE_BYTES_MAX),
            processes_max: sandbox::processes_with(PROCESSES_MAX),
            open_files_max: Some(OPEN_FILES_MAX),
            user: self.user,
            core_bytes_max: None,
            calls: Vec::new(),
            namespaces: false,
        }
    }

    /// Makes the compiler's user the owner of the scratch directory and its content.
    fn hand_over(&self, dir: &Path) -> io::Result<()> {
        let Some(User { uid, gid }) = self.user else { return Ok(()) };
        chown(dir, Some(uid), Some(gid))?;
        let sdk = sdk::dir_in(dir);
        // The SDK is written once and changes its owner as a whole.
        let is_done = fs::symlink_metadata(&sdk).is_ok_and(|found| found.is_dir() && found.uid() == uid);
        let mut dirs = vec![dir.to_path_buf()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir)? {
                let entry = entry?;
                lchown(entry.path(), Some(uid), Some(gid))?;
                // `file_type` does not follow links, so no link's target changes its owner.
                if entry.file_type()?.is_dir() && !(is_done && entry.path() == sdk) {
                    dirs.push(entry.path());
                }
            }
        }
        Ok(())
    }

    /// Makes the result the server's own. From now on the server and the domains read and run it, and the compiler can't
    /// change it.
    fn take_back(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
        let found = file.metadata()?;
        // Behind a link the server would load, and give away, a file that the compiler itself could not read.
        if !found.is_file() || found.nlink() != 1 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the compiler's result is not a regular file with exactly one link",
            ));
        }
        if self.user.is_some() {
            fchown(&file, Some(geteuid().as_raw()), Some(getegid().as_raw()))?;
        }
        // The directory is closed to others; the inspecting process gets a descriptor of the file and opens it as another
        // user.
        file.set_permissions(Permissions::from_mode(0o644))
    }

    /// Waits for the compiler within the limit, ends the processes that it leaves, and collects its output.
    fn finish(&self, mut child: Child, deadline: Instant) -> Result<(ExitStatus, Vec<u8>), DeployError> {
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let (sender, receiver) = channel::bounded(1);
        let stderr = child.stderr.take();
        let reader = std::thread::Builder::new().name("cc-output".to_owned()).spawn(move || {
            let _ = sender.send(stderr.map(read_capped).unwrap_or_default());
        });
        let output = match reader {
            Ok(_) => {
                let output = receiver.recv_deadline(deadline).ok().filter(|_| ends_before(group, deadline));
                output.ok_or(DeployError::CompileTimeout(self.limit))
            }
            // The kernel counts threads and processes together (setrlimit(2), `RLIMIT_NPROC`).
            Err(error) => Err(DeployError::Crowded(format!("the compiler's messages can't be read ({error})"))),
        };
        if let Some(group) = group {
            // The child is not reaped yet, so its process id, which is also its group's, can't belong to another process.
            // The sandbox lets no process leave the group.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let status = child.wait()?;
        output.map(|output| (status, output))
    }
}

/// Sets what all compilers have in common: environment, standard streams and a process group of their own.
fn settle(command: &mut Command) -> &mut Command {
    command
        .env_clear()
        .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env("LC_ALL", "C")
        .env("TMPDIR", ".")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
}

/// Waits for the end of a child that has closed its output, but does not reap the child.
fn ends_before(child: Option<Pid>, deadline: Instant) -> bool {
    let Some(child) = child else { return true };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    while let Ok(None) = waitid(WaitId::Pid(child), options) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    true
}

/// Returns the file of `program`, looked up in `PATH` unless `program` is a path. The sandbox must know the file's
/// directory.
fn find(program: &str) -> io::Result<PathBuf> {
    if program.contains('/') {
        return std::path::absolute(program);
    }
    let is_program = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(is_program);
    found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

/// Reads to the end, and keeps at most [`OUTPUT_BYTES_MAX`] bytes.
fn read_capped(mut pipe: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut chunk = [0; 8 * 1024];
    let mut cut = false;
    while let Ok(count @ 1..) = pipe.read(&mut chunk) {
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(chunk.get(..count.min(room)).unwrap_or_default());
        cut |= count > room;
    }
    if cut {
        kept.extend_from_slice(b"\n... (the rest is cut)\n");
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(compiler: &Compiler, source: &[u8], dir: &Path, target: &str) -> Result<String, DeployError> {
        let source = Source::File(source.to_vec());
        let plan = compiler.plan(&source, &SourceFields::default())?;
        let mut workdir = Workdir::new(dir.to_path_buf());
        compiler.compile(&source, &plan, &mut workdir, target, &UnitCache::none(), &mut || {})
    }

    fn compiler(limit_ms: u64) -> (tempfile::TempDir, Compiler) {
        let dir = tempfile::tempdir().unwrap();
        let sdk = sdk::unpack(dir.path()).unwrap();
        (dir, Compiler::new(sdk, Duration::from_millis(limit_ms), Allowed::Default))
    }

    #[test]
    fn compiles_warns_and_refuses() {
        let (dir, compiler) = compiler(60_000);
        assert_eq!(compile(&compiler, b"int x;", dir.path(), "a.so").unwrap(), "");
        assert!(dir.path().join("a.so").exists());
        let warnings = compile(&compiler, b"static int x;", dir.path(), "b.so").unwrap();
        assert!(warnings.contains("module.c:1:12") && warnings.contains("unused"), "{warnings}");
        let error = compile(&compiler, b"int x", dir.path(), "c.so").unwrap_err();
        assert!(matches!(&error, DeployError::Compile(text) if text.contains("module.c:1")), "{error}");
        let error = compile(&compiler, b"#include <openssl/nothing.h>", dir.path(), "d.so").unwrap_err();
        assert!(error.to_string().contains("libssl-dev"), "{error}");
    }

    #[test]
    fn a_compiler_that_does_not_end_is_stopped() {
        let (dir, compiler) = compiler(300);
        let error = compile(&compiler, b"#include \"/dev/zero\"", dir.path(), "a.so").unwrap_err();
        assert!(matches!(error, DeployError::CompileTimeout(_) | DeployError::Compile(_)), "{error}");
    }

    #[test]
    fn keys_differ_by_source() {
        let (_dir, compiler) = compiler(1000);
        let key = |source: &[u8], route: Option<&str>| {
            let (function, route) = (Some("f".to_owned()), route.map(str::to_owned));
            let fields = SourceFields { function_name: function, route, ..SourceFields::default() };
            let source = Source::File(source.to_vec());
            compiler.key(&source, &compiler.plan(&source, &fields).unwrap())
        };
        assert_eq!(key(b"a", None), key(b"a", None));
        assert_ne!(key(b"a", None), key(b"b", None));
        assert_ne!(key(b"a", Some("/a")), key(b"a", Some("/b")));
        assert_eq!(key(b"module_t", Some("/a")), key(b"module_t", Some("/b")), "routes come from the config");
    }
}
