//! Namespaces (`namespaces(7)`): the process sees only the files, interfaces, names and messages that it is granted.
//!
//! The process leaves the server's mount, IPC, UTS and network namespaces: directly as root, else with a user namespace of
//! its own. Its root is an empty tmpfs, which has each granted path at its usual place. Paths that the policy only reads
//! are mounted read-only, so a bug in Landlock opens no file for writing. The process stays in the server's PID namespace,
//! since leaving that takes a second process.

use super::error::system;
use super::program::{self, NotRun};
use super::{Policy, SandboxError};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

/// Directories that symbolic links of the system lead through.
const ALWAYS: [&str; 2] = ["/etc/alternatives", "/run/current-system"];
/// The links of every `/dev`.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];
/// The mount point of the new root until it becomes the root: a directory that every system has.
const PLACE: &CStr = c"/usr";
/// The new root holds only directories and empty files as mount points, so this much suffices.
const ROOT_OPTIONS: &CStr = c"mode=755,size=1m,nr_inodes=4096";

// linux/mount.h and asm-generic/fcntl.h.
const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const MOVE_MOUNT_T_SYMLINKS: libc::c_uint = 0x10;
const MOUNT_ATTR_RDONLY: u64 = 1;

/// `struct mount_attr`
#[repr(C)]
#[derive(Default)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// A granted file or directory, cloned from the old tree.
struct Tree {
    mount: OwnedFd,
    is_dir: bool,
}

/// The reason why a process can't have namespaces of its own, found by a process that ends at once; `None`: it can.
pub(super) fn probe() -> Option<String> {
    let policy = Policy {
        read: super::system_paths(),
        execute: super::compiler_paths(Path::new("/bin/true")),
        exec_allowed: true,
        user: super::unprivileged(),
        namespaces: true,
        ..Policy::default()
    };
    let output = program::command(&policy, "/bin/true".as_ref()).and_then(|mut command| command.output());
    let output = match output {
        Ok(output) => output,
        Err(error) => return Some(error.to_string()),
    };
    match program::not_run(output.status.code(), &String::from_utf8_lossy(&output.stderr)) {
        Some(NotRun::Sandbox(why)) => Some(why),
        // A missing program says nothing about namespaces.
        _ => None,
    }
}

/// Moves the calling process, which must have one thread, into namespaces of its own.
///
/// # Errors
/// A system call failed; the process must end.
pub(super) fn enter(policy: &Policy) -> Result<(), SandboxError> {
    let dir = std::env::current_dir().map_err(system("finding the working directory"))?;
    let granted = granted(policy, &dir);
    unshare(policy)?;
    if granted.contains_key(Path::new("/")) {
        // The policy grants everything, so there is nothing to hide.
        return Ok(());
    }
    mount_private().map_err(system("making mounts private"))?;
    let trees = granted.iter().filter_map(|(path, is_written)| clone_tree(path, *is_written).transpose());
    let trees = trees.collect::<io::Result<Vec<_>>>().map_err(system("cloning a mount"))?;
    new_root().map_err(system("changing the root"))?;
    // All users must be able to pass the directories on the way.
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    let filled = fill(&trees);
    rustix::process::umask(mask);
    filled.map_err(system("mounting the granted paths"))?;
    set_read_only(libc::AT_FDCWD, c"/", 0).map_err(system("making the root read-only"))?;
    // The same directory, if it exists there, so that relative paths keep their meaning.
    let entered = std::env::set_current_dir(&dir).or_else(|_| std::env::set_current_dir("/"));
    entered.map_err(system("entering a directory"))
}

/// Mounts the granted paths in the new root.
fn fill(trees: &[(PathBuf, Tree)]) -> io::Result<()> {
    for (path, tree) in trees {
        attach(path, tree).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    }
    for dir in ["/dev", "/proc"] {
        DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    }
    let own = std::process::id().to_string();
    for (target, link) in LINKS.into_iter().chain([(own.as_str(), "/proc/self")]) {
        let linked = std::os::unix::fs::symlink(target, link);
        linked.or_else(|error| if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })?;
    }
    Ok(())
}

/// The absolute paths that the policy grants, and whether each is writable. Paths within another path with the same rights
/// are left out.
fn granted(policy: &Policy, dir: &Path) -> BTreeMap<PathBuf, bool> {
    // Programs find their own descriptors, threads and name there.
    let own = PathBuf::from(format!("/proc/{}", std::process::id()));
    let always = ALWAYS.map(Path::new).into_iter().chain([own.as_path()]);
    let read = policy.read.iter().chain(&policy.execute).map(PathBuf::as_path).chain(always);
    let mut all: BTreeMap<PathBuf, bool> = read.map(|path| (plain(&dir.join(path)), false)).collect();
    all.extend(policy.write.iter().map(|path| (plain(&dir.join(path)), true)));
    let is_covered = |path: &Path| path.ancestors().skip(1).any(|above| all.contains_key(above));
    let needed = all.iter().filter(|(path, is_written)| **is_written || !is_covered(path));
    needed.map(|(path, is_written)| (path.clone(), *is_written)).collect()
}

/// The path without `.` and repeated separators.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn check(result: libc::c_long) -> io::Result<RawFd> {
    if result < 0 { Err(io::Error::last_os_error()) } else { RawFd::try_from(result).map_err(io::Error::other) }
}

fn unshare(policy: &Policy) -> Result<(), SandboxError> {
    let network = if policy.network { 0 } else { libc::CLONE_NEWNET };
    let all = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | network;
    // SAFETY: no memory is involved.
    let leave = |flags| check(unsafe { libc::unshare(flags) }.into());
    match leave(all) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied && policy.user.is_none() => {
            let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            leave(all | libc::CLONE_NEWUSER).map_err(system("unsharing namespaces"))?;
            let map = |file: &str, text: &str| fs::write(format!("/proc/self/{file}"), text);
            map("setgroups", "deny")
                .and_then(|()| map("uid_map", &format!("{user} {user} 1")))
                .and_then(|()| map("gid_map", &format!("{group} {group} 1")))
                .map_err(system("mapping the user"))
        }
        other => other.map(drop).map_err(system("unsharing namespaces")),
    }
}

/// Makes all later mounts invisible in the server's namespace.
fn mount_private() -> io::Result<()> {
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the strings end with NUL; the other pointers may be null with these flags.
    check(unsafe { libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), flags, std::ptr::null()) }.into())
        .map(drop)
}

/// A copy of the mounts at `path`, not attached to a tree yet; `None`: the path does not exist.
fn clone_tree(path: &Path, is_written: bool) -> io::Result<Option<(PathBuf, Tree)>> {
    let Ok(data) = fs::metadata(path) else { return Ok(None) };
    let name = CString::new(path.as_os_str().as_bytes())?;
    let flags = OPEN_TREE_CLONE | AT_RECURSIVE | libc::O_CLOEXEC as libc::c_uint;
    // SAFETY: a string that ends with NUL.
    let mount = check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, name.as_ptr(), flags) })?;
    // SAFETY: the kernel has just created the descriptor.
    let mount = unsafe { OwnedFd::from_raw_fd(mount) };
    if !is_written {
        set_read_only(mount.as_raw_fd(), c"", AT_RECURSIVE | libc::AT_EMPTY_PATH as libc::c_uint)?;
    }
    Ok(Some((path.to_path_buf(), Tree { mount, is_dir: data.is_dir() })))
}

fn set_read_only(at: RawFd, path: &CStr, flags: libc::c_uint) -> io::Result<()> {
    let attributes = MountAttributes { set: MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
    let (pointer, size) = (&raw const attributes, size_of::<MountAttributes>());
    // SAFETY: the string ends with NUL; the kernel only reads the structure, which has this size.
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, at, path.as_ptr(), flags, pointer, size) }).map(drop)
}

/// Makes an empty tree the root, and detaches the old one.
fn new_root() -> io::Result<()> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    let (kind, options) = (c"tmpfs".as_ptr(), ROOT_OPTIONS.as_ptr().cast());
    // SAFETY: the strings end with NUL.
    check(unsafe { libc::mount(kind, PLACE.as_ptr(), kind, flags, options) }.into())?;
    // SAFETY: as above.
    check(unsafe { libc::chdir(PLACE.as_ptr()) }.into())?;
    // pivot_root(2) documents this use: the old root comes to lie over the new one, and is then detached.
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // SAFETY: as above.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }.into())?;
    std::env::set_current_dir("/")
}

fn attach(path: &Path, tree: &Tree) -> io::Result<()> {
    let make_dir = |dir: &Path| DirBuilder::new().recursive(true).mode(0o755).create(dir);
    // In a read-only tree the mount point exists already.
    if fs::metadata(path).is_err() {
        match path.parent() {
            Some(parent) if !tree.is_dir => make_dir(parent).and_then(|()| File::create(path).map(drop))?,
            _ => make_dir(path)?,
        }
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    let (from, flags) = (tree.mount.as_raw_fd(), MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS);
    // SAFETY: the strings end with NUL.
    let moved =
        unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), libc::AT_FDCWD, name.as_ptr(), flags) };
    check(moved).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_granted_directory_is_not_mounted_again() {
        let path = |text: &str| PathBuf::from(text);
        let policy = Policy {
            read: vec![path("/usr"), path("/usr/lib"), path("/srv"), path("static/./x")],
            execute: vec![path("/usr/bin")],
            write: vec![path("/srv/data"), path("/dev/null")],
            ..Policy::default()
        };
        let found = granted(&policy, Path::new("/work"));
        let own = format!("/proc/{}", std::process::id());
        let read = ["/etc/alternatives", &own, "/run/current-system", "/srv", "/usr", "/work/static/x"];
        let all = read
            .map(|text| (path(text), false))
            .into_iter()
            .chain([(path("/dev/null"), true), (path("/srv/data"), true)]);
        assert_eq!(found, all.collect::<BTreeMap<_, _>>());
    }
}
