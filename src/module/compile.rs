//! Running the system's C compiler.
//!
//! A source decides what the compiler reads (`#include`, `.incbin`) and how long it works, so it runs in a sandbox: it
//! sees the system's programs, headers and libraries and its scratch directory, with a copy of the SDK in it. Paths in
//! there are relative, since the user it becomes may not be allowed to reach the directory from the root.

mod assets;
mod hints;
mod plan;
mod units;
mod workdir;

pub(super) use plan::Plan;
pub(super) use units::UnitCache;
pub(super) use workdir::Workdir;

use super::deploy::{DeployError, SourceFields};
use super::dialect::{Language, Recipe, messages};
use super::instruments::{self, Instruments};
use super::libraries::{Allowed, Libraries};
use super::project::Source;
use super::{sdk, shared_object};
use crate::domain::sandbox::program::{self, NotRun};
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

/// Flags before the source, behind the standard of its language; `include/cweb_config.h` documents them for authors.
/// `-fstack-clash-protection` has a large frame touch each of its pages, so that it can't step over a stack's guard page;
/// `-fstack-protector-strong` ends a handler that has overwritten its own frame; frame pointers let profilers see callers.
const FLAGS: [&str; 7] =
    ["-O2", "-g", "-fPIC", "-Wall", "-fstack-clash-protection", "-fstack-protector-strong", "-fno-omit-frame-pointer"];
/// Flags behind it. `-Bsymbolic` binds what a module defines to itself also where libc has the name (`login`, `send`);
/// `-z defs` has a function that is nowhere be an error here and not when the module is loaded;
/// `--wrap` sends calls of exit(3) and others that reach beyond the module to the SDK; `--as-needed` applies to the libraries after it.
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

/// What clang, unlike gcc, counts among incompatible pointers: a pointer that loses its `const`.
const CLANG_FLAG: &str = "-Wno-error=incompatible-pointer-types-discards-qualifiers";

/// Diagnostics beyond this are cut.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Memory of each compiler process.
const MEMORY_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Size of any file the compiler writes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Processes of all compilers together, about.
const PROCESSES_MAX: u64 = 512;
/// Files that a compiler process has open at once.
const OPEN_FILES_MAX: u64 = 512;

/// What the compiler gets of our environment: the rest is no business of a source, the admin key least of all.
const ENVIRONMENT: [&str; 7] =
    ["PATH", "CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "LD_LIBRARY_PATH", "GCC_EXEC_PREFIX", "COMPILER_PATH"];

/// The compiler as configured, and what identifies its results.
#[derive(Debug)]
pub(super) struct Compiler {
    program: String,
    /// The compiler of C++ that belongs to it.
    cpp_program: String,
    sdk_dir: PathBuf,
    identity: String,
    is_clang: bool,
    limit: Duration,
    user: Option<User>,
    libraries: Libraries,
    /// Most bytes of a ready shared object; `None`: none is taken.
    objects_bytes_max: Option<usize>,
}

impl Compiler {
    /// `CC` or `cc`, with the SDK in `sdk_dir`; sources may name the libraries that are `allowed`.
    pub(super) fn new(sdk_dir: PathBuf, limit: Duration, allowed: Allowed) -> Self {
        let named = |variable| std::env::var(variable).ok().filter(|program| !program.is_empty());
        let program = named("CC").unwrap_or_else(|| "cc".to_owned());
        // A compiler that can't be asked now has no cached results to mix up with another's.
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

    /// The same, which takes ready shared objects of at most `bytes_max`.
    pub(super) fn with_objects(self, bytes_max: Option<usize>) -> Self {
        Self { objects_bytes_max: bytes_max, ..self }
    }

    fn program_of(&self, language: Language) -> &str {
        match language {
            Language::C => &self.program,
            Language::Cpp => &self.cpp_program,
        }
    }

    /// Reads `source`, which came with `fields`, and finds the libraries that it names.
    ///
    /// # Errors
    /// A pragma, a flag or a library is wrong, not allowed or not installed.
    pub(super) fn plan(&self, source: &Source, fields: &SourceFields) -> Result<Plan, DeployError> {
        let wrong = |text: String| DeployError::Compile(format!("error: sanitize: {text}\n"));
        let instruments = Instruments::on_server(fields.sanitize.as_deref()).map_err(wrong)?;
        self.plan_with(source, fields, &instruments)
    }

    /// The same, of a module with `instruments`.
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
        Plan::new(source, fields, &self.libraries, Path::new(&self.program), instruments)
    }

    /// The libraries that a process needs which has a look at a module of `plan`.
    ///
    /// # Errors
    /// A sanitizer is not installed.
    pub(super) fn preload_of(&self, plan: &Plan) -> Result<Vec<PathBuf>, DeployError> {
        if plan.fields().sanitize.is_none() {
            return Ok(Vec::new());
        }
        instruments::address_libraries().map_err(DeployError::Compile)
    }

    /// The libraries that a process of modules with `instruments` must have from its start.
    ///
    /// # Errors
    /// For people: one is not installed.
    pub(super) fn preload(&self, instruments: &Instruments) -> Result<Vec<PathBuf>, String> {
        instruments.preload(Path::new(&self.program), self.is_clang)
    }

    /// Names the result of compiling what `plan` read: the same key, the same shared object. Everything that any of its
    /// dialects brings is part of the name, since which one it becomes is not known yet.
    pub(super) fn key(&self, source: &Source, plan: &Plan) -> String {
        let mut hasher = self.hasher(plan);
        for recipe in plan.reading().recipes().unwrap_or_default() {
            hasher.update(format!("{recipe:?}").as_bytes());
            hasher.update([0]);
        }
        hasher.update(plan.fields().text().as_bytes());
        hasher.update([0]);
        // The object has it in its debug information: one source under two names is two objects.
        if let Some(name) = &plan.fields().source_name {
            hasher.update(format!("file:{name}\0"));
        }
        hasher.update(plan.identity().as_bytes());
        source.digest(&mut hasher);
        sdk::hex(&hasher.finalize())
    }

    /// A hash of what every compilation depends on.
    fn hasher(&self, plan: &Plan) -> Sha256 {
        let mut hasher = Sha256::new();
        if plan.is_object() {
            // No compiler makes a ready object; the version of its interface decides whether it fits.
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

    /// Compiles `source` to the file `target` within `workdir`: a project unit by unit, of which
    /// `cache` may have some, and a file as the likely dialect or else as the other one. Calls `begun` once a compiler works, so that
    /// the caller can get ready for the result meanwhile. Returns the compiler's warnings.
    ///
    /// # Errors
    /// The source does not compile as any dialect: the messages are of the likely one. Or the compiler could not be run.
    pub(super) fn compile(
        &self,
        source: &Source,
        plan: &Plan,
        workdir: &mut Workdir,
        target: &str,
        cache: &UnitCache,
        begun: &mut dyn FnMut(),
    ) -> Result<String, DeployError> {
        // One limit for all attempts and units: an author waits once.
        let deadline = Instant::now() + self.limit;
        let source = match source {
            Source::Project(project) => return self.project(project, plan, (workdir, target), cache, deadline, begun),
            Source::File(object) if plan.is_object() => return self.place(object, plan, &workdir.path().join(target)),
            Source::File(source) => source,
        };
        let (mut refusals, reading) = (Vec::new(), plan.reading());
        let mut begun = Some(begun);
        for recipe in reading.recipes().map_err(DeployError::Compile)? {
            let child = self.attempt(source, &recipe, plan, workdir, target)?;
            begun.take().into_iter().for_each(|begun| begun());
            let result = self.outcome(child, reading.language(), deadline);
            match result
                .and_then(|text| self.take_back(&workdir.path().join(target)).map(|()| text).map_err(DeployError::from))
            {
                Err(DeployError::Compile(text)) => refusals.push((recipe.dialect, text)),
                other => return other,
            }
        }
        Err(DeployError::Compile(hints::with_hints(messages::refusal(reading, source, &refusals))))
    }

    /// Writes a ready shared object to the file `path`, as if the compiler had made it.
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
        // Anew, and not through a link that the run before might have left.
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

    /// Starts the compiler.
    fn spawn(&self, mut command: Command, language: Language) -> Result<Child, DeployError> {
        let not_started = |error| self.not_started(language, error);
        net::keep_descriptors_from(&mut command).spawn().map_err(not_started)
    }

    /// Waits for a running compiler, and returns its output.
    fn outcome(&self, child: Child, language: Language, deadline: Instant) -> Result<String, DeployError> {
        let not_started = |error| self.not_started(language, error);
        let (status, output) = self.finish(child, deadline)?;
        let text = String::from_utf8_lossy(&output).into_owned();
        match program::not_run(status.code(), &text) {
            Some(NotRun::Program(error)) => Err(not_started(error)),
            Some(NotRun::Sandbox(text)) => Err(DeployError::Internal(format!("the compiler's sandbox: {text}"))),
            None if !status.success() => Err(DeployError::Compile(text)),
            None => Ok(text),
        }
    }

    fn not_started(&self, language: Language, error: io::Error) -> DeployError {
        let (name, package) = match language {
            Language::C => ("C", "gcc libc6-dev"),
            Language::Cpp => ("C++", "g++"),
        };
        DeployError::NoCompiler { compiler: self.program_of(language).to_owned(), error, language: name, package }
    }

    /// The compiler in its sandbox, up to the name of the source; `sdk` lies in the directory that it starts in. Without a
    /// recipe it is to link. `begin` is [`program::command`], or [`program::held_command`] for one that is to wait.
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
        // What gcc alone knows.
        let is_known = |flag: &&String| !self.is_clang || *flag != "-fno-gnu-unique";
        command
            .arg(language.standard())
            .args(FLAGS)
            // Before those of the recipe: what the server has be an error stays one.
            .args(cflags.clone())
            // A strict standard hides what the server's headers need of POSIX.
            .args(cflags.clone().any(|flag| flag.starts_with("-std=c")).then_some("-D_DEFAULT_SOURCE"))
            .args(recipe.iter().flat_map(|recipe| &recipe.flags).filter(is_known))
            // It needs optimisation, and warns without; a sanitizer checks more.
            .args(
                cflags
                    .clone()
                    .any(|flag| flag == "-O0" || flag.starts_with("-fsanitize="))
                    .then_some("-U_FORTIFY_SOURCE"),
            )
            .args((self.is_clang && language == Language::C).then_some(CLANG_FLAG))
            .args(recipe.iter().flat_map(|recipe| recipe.include).map(|dir| format!("-I{name}/{dir}")))
            .arg(format!("-I{name}"))
            // Debuggers find the headers after the scratch directory is gone.
            .arg(format!("-fdebug-prefix-map={name}={}", self.sdk_dir.display()));
        settle(&mut command);
        Ok(command)
    }

    /// The file of the compiler of `language`.
    fn program(&self, language: Language) -> Result<PathBuf, DeployError> {
        find(self.program_of(language)).map_err(|error| self.not_started(language, error))
    }

    /// What the compiler `program` may do.
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
            // A process that is not stopped by its group's time is by its own.
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

    /// Makes the compiler's user the owner of the scratch directory and what is in it.
    fn hand_over(&self, dir: &Path) -> io::Result<()> {
        let Some(User { uid, gid }) = self.user else { return Ok(()) };
        chown(dir, Some(uid), Some(gid))?;
        let sdk = sdk::dir_in(dir);
        // The SDK is written once, and handed over at once.
        let is_done = fs::symlink_metadata(&sdk).is_ok_and(|found| found.is_dir() && found.uid() == uid);
        let mut dirs = vec![dir.to_path_buf()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir)? {
                let entry = entry?;
                lchown(entry.path(), Some(uid), Some(gid))?;
                // Not a link's: `file_type` follows none.
                if entry.file_type()?.is_dir() && !(is_done && entry.path() == sdk) {
                    dirs.push(entry.path());
                }
            }
        }
        Ok(())
    }

    /// Makes the result ours: from now on it is a file that we run, and only read.
    fn take_back(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
        let found = file.metadata()?;
        // A link would have us load, and give away, what the compiler itself could not touch.
        if !found.is_file() || found.nlink() != 1 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the compiler's result is no file of its own"));
        }
        if self.user.is_some() {
            fchown(&file, Some(geteuid().as_raw()), Some(getegid().as_raw()))?;
        }
        // The directory is closed to others; whoever inspects the file opens it by a descriptor, as another user.
        file.set_permissions(Permissions::from_mode(0o644))
    }

    /// Waits for the compiler within the limit, ends whatever it leaves, and collects what it says.
    fn finish(&self, mut child: Child, deadline: Instant) -> Result<(ExitStatus, Vec<u8>), DeployError> {
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let (sender, receiver) = channel::bounded(1);
        let stderr = child.stderr.take();
        let reader = std::thread::Builder::new().name("cc-output".to_owned()).spawn(move || {
            let _ = sender.send(stderr.map(read_capped).unwrap_or_default());
        });
        let output = match reader {
            Ok(_) => receiver.recv_deadline(deadline).ok().filter(|_| ends_before(group, deadline)),
            Err(_) => None,
        };
        if let Some(group) = group {
            // The child is not reaped yet, so its number, which is its group's, can't name another. The sandbox lets
            // no process leave the group.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let status = child.wait()?;
        output.map(|output| (status, output)).ok_or(DeployError::CompileTimeout(self.limit))
    }
}

/// What every compiler begins with: environment, standard streams, and a process group of its own.
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

/// Waits for the end of a child that has closed its output, and leaves it to be reaped.
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

/// The file that `program` names, by `PATH` unless it is a path itself: the sandbox has to know where it lies.
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

/// Reads to the end, keeps the beginning.
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
        assert_eq!(key(b"module_t", Some("/a")), key(b"module_t", Some("/b")), "it registers itself");
    }
}
