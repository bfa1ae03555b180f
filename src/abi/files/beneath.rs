//! Opens a file below a directory; no path can leave the directory.
//!
//! openat2(2) does that in one call. The sandbox forbids openat2(2), because no filter can examine its flags. The path is then
//! walked, one name per call, and no call follows a symbolic link by itself.

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, readlinkat};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// openat2(2) returns EAGAIN when a directory was moved during the call.
const ATTEMPTS_MAX: u32 = 8;

/// Limit on the symbolic links in one path; the kernel has the same limit.
const LINKS_MAX: usize = 40;

/// Limit on the names still to be walked: links add names.
const NAMES_MAX: usize = 4096;

/// Opens `path` below `root`. Symbolic links are followed while they stay below `root`.
///
/// # Errors
/// EXDEV if the path leads out of `root`, ELOOP for too many links; and the errors of open(2).
pub(super) fn open(root: &OwnedFd, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    static UNKNOWN: AtomicBool = AtomicBool::new(false);
    let mut attempts = 0;
    while !UNKNOWN.load(Ordering::Relaxed) {
        attempts += 1;
        match openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
            Err(Errno::AGAIN | Errno::INTR) if attempts < ATTEMPTS_MAX => {}
            Err(Errno::NOSYS) => UNKNOWN.store(true, Ordering::Relaxed),
            opened => return opened,
        }
    }
    walk(root, path, flags)
}

/// The names of `path` in reverse order, so that the next name is at the end.
fn names_of(path: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    if path.first() == Some(&b'/') {
        return Err(Errno::XDEV);
    }
    // A trailing slash requires a directory, as a dot does.
    let end: &[u8] = if path.ends_with(b"/") { b"." } else { b"" };
    let names = path.split(|&byte| byte == b'/').chain([end]).filter(|name| !name.is_empty());
    let mut names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
    names.reverse();
    Ok(names)
}

fn walk(root: &OwnedFd, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let on_the_way = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut names = names_of(path.to_bytes())?;
    if names.is_empty() {
        return Err(Errno::NOENT);
    }
    // The directories from `root` to the present position. `..` removes the last one: the kernel is never asked for the parent
    // of a directory, because that directory may have been moved.
    let mut directories: Vec<OwnedFd> = Vec::new();
    let mut links = 0;
    while let Some(name) = names.pop() {
        let here = directories.last().unwrap_or(root);
        match name.as_slice() {
            b"." => {}
            b".." => drop(directories.pop().ok_or(Errno::XDEV)?),
            name => {
                let found = openat(here, name, on_the_way, Mode::empty())?;
                match FileType::from_raw_mode(fstat(&found)?.st_mode) {
                    FileType::Symlink => {
                        links += 1;
                        let target = readlinkat(&found, c"", Vec::new())?;
                        names.extend(names_of(target.to_bytes())?);
                        if links > LINKS_MAX || names.len() > NAMES_MAX {
                            return Err(Errno::LOOP);
                        }
                    }
                    FileType::Directory => directories.push(found),
                    _ if names.is_empty() => return openat(here, name, flags | OFlags::NOFOLLOW, Mode::empty()),
                    _ => return Err(Errno::NOTDIR),
                }
            }
        }
    }
    openat(directories.last().unwrap_or(root), c".", flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_walk_finds_what_openat2_finds_and_refuses_what_it_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        for name in ["f", "a/f", "a/b/f"] {
            std::fs::write(root.join(name), name).unwrap();
        }
        let links = [
            ("to-a", "a"),
            ("a/up", "../f"),
            ("a/b/top", "../../a/f"),
            ("out", "../secret"),
            ("absolute", "/etc/passwd"),
            ("a/out", "b/../../../secret"),
            ("loop", "loop"),
            ("chain", "to-a/up"),
            ("dangling", "nothing"),
            ("slash", "a/"),
        ];
        for (name, target) in links {
            symlink(target, root.join(name)).unwrap();
        }
        let fd = openat(CWD, &root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let read = |opened: Result<OwnedFd, Errno>| {
            let mut text = String::new();
            opened.map(|fd| File::from(fd).read_to_string(&mut text).map(|_| text).map_err(|error| error.kind()))
        };
        let paths = [
            "f",
            "./f",
            "a/f",
            "a//b/f",
            "a/b/../f",
            "a/../f",
            "a/b/top",
            "a/up",
            "to-a/up",
            "to-a/b/f",
            "chain",
            "slash/f",
            "",
            ".",
            "a",
            "a/",
            "a/b/..",
            "f/",
            "f/x",
            "f/.",
            "nothing",
            "a/nothing/f",
            "..",
            "../secret",
            "a/../../secret",
            "/etc/passwd",
            "out",
            "absolute",
            "a/out",
            "loop",
            "dangling",
            "a/b/../../../root/f",
        ];
        for path in paths {
            let path = std::ffi::CString::new(path).unwrap();
            let expected = read(openat2(&fd, &path, flags, Mode::empty(), resolve));
            assert_eq!(read(walk(&fd, &path, flags)), expected, "{path:?}");
        }
    }
}
