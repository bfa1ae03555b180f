//! The owners of directories for a process that is not root.

use super::User;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchown, fstat, openat};
use rustix::io::Errno;
use rustix::path::Arg;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Limit on the depth of directories, since a module could build an endless chain.
const DEPTH_MAX: usize = 64;

/// The first directory on the way to one of `paths`, including the path itself, that `user` can't enter.
#[must_use]
pub fn closed_to(user: User, paths: &[PathBuf]) -> Option<PathBuf> {
    let ways = paths.iter().flat_map(|path| path.ancestors());
    ways.into_iter().find(|dir| !may_enter(user, dir)).map(Path::to_path_buf)
}

fn may_enter(user: User, dir: &Path) -> bool {
    // The execute bits of a directory permit access to its content.
    fs::metadata(dir).is_ok_and(|data| {
        let bit = if data.uid() == user.uid {
            0o100
        } else if data.gid() == user.gid {
            0o010
        } else {
            0o001
        };
        data.mode() & bit != 0
    })
}

/// The reason why `user`, or else this process's user without root's rights, can't write to the directory `dir`, as far as
/// its mode shows.
#[must_use]
pub fn not_writable(user: Option<User>, dir: &Path) -> Option<String> {
    let data = match fs::metadata(dir) {
        Ok(data) if data.is_dir() => data,
        Ok(_) => return Some("it is not a directory".to_owned()),
        Err(error) => return Some(error.to_string()),
    };
    let is_root = rustix::process::geteuid().is_root();
    let Some(user) = user.or_else(|| is_root.then_some(User { uid: 0, gid: 0 })) else {
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        return rustix::fs::access(dir, access).err().map(|error| io::Error::from(error).to_string());
    };
    if let Some(closed) = closed_to(user, &[dir.to_path_buf()]) {
        return Some(format!("user {} can't enter {}", user.uid, closed.display()));
    }
    let needed = if data.uid() == user.uid {
        0o300
    } else if data.gid() == user.gid {
        0o030
    } else {
        0o003
    };
    let (mode, owner) = (data.mode() & 0o7777, data.uid());
    (mode & needed != needed)
        .then(|| format!("it is of user {owner} with mode {mode:03o}, and modules run as {}", user.uid))
}

/// Makes `user` the owner of `dir` and everything in it. Links are not followed. A file with a second link, which may lie
/// elsewhere, keeps its owner. Each step starts from a descriptor of the directory, so that a concurrent rename can't give
/// another file away.
///
/// # Errors
/// `fchown(2)` failed, or a directory can't be read.
pub fn hand_over(user: User, dir: &Path) -> io::Result<()> {
    match open_directory(CWD, dir) {
        // The operator made this link, so its target is the operator's to give.
        Err(_) if fs::symlink_metadata(dir)?.is_symlink() => Ok(()),
        opened => hand_over_in(user, &opened?, 0),
    }
}

fn open_directory(parent: impl AsFd, name: impl Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

fn hand_over_in(user: User, dir: &OwnedFd, depth: usize) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)));
    let is_owner = |data: &Stat| (data.st_uid, data.st_gid) == (user.uid, user.gid);
    if !is_owner(&fstat(dir)?) {
        fchown(dir, uid, gid)?;
    }
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // An O_PATH descriptor can't be used for anything else, so opening it opens no device and waits for no reader.
        let place = match openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => continue,
            place => place?,
        };
        let data = fstat(&place)?;
        if FileType::from_raw_mode(data.st_mode) == FileType::Directory {
            if depth < DEPTH_MAX {
                hand_over_in(user, &open_directory(&place, c".")?, depth + 1)?;
            }
        } else if data.st_nlink == 1 && !is_owner(&data) {
            chownat(&place, c"", uid, gid, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_closed_directory_on_the_way_is_named() {
        let other = User { uid: 65_533, gid: 65_533 };
        let dir = tempfile::tempdir().unwrap();
        let (outer, inner) = (dir.path().join("outer"), dir.path().join("outer/inner"));
        fs::create_dir_all(&inner).unwrap();
        let mode = |path: &Path, mode: u32| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        for path in [dir.path(), &outer, &inner] {
            mode(path, 0o711);
        }
        assert_eq!(closed_to(other, std::slice::from_ref(&inner)), None);
        mode(&outer, 0o700);
        assert_eq!(closed_to(other, std::slice::from_ref(&inner)), Some(outer.clone()));
        let own = fs::metadata(&outer).unwrap();
        assert_eq!(closed_to(User { uid: own.uid(), gid: own.gid() }, std::slice::from_ref(&inner)), None);
        assert_eq!(closed_to(other, &[inner.join("missing")]), Some(inner.join("missing")));
    }

    #[test]
    fn what_a_link_or_a_second_name_leads_to_keeps_its_owner() {
        let other = User { uid: 65_533, gid: 65_533 };
        let dir = tempfile::tempdir().unwrap();
        let (own, outside) = (dir.path().join("own"), dir.path().join("outside"));
        for dir in [&own.join("sub"), &outside] {
            fs::create_dir_all(dir).unwrap();
        }
        for file in [own.join("sub/file"), outside.join("secret"), outside.join("twice")] {
            fs::write(file, "").unwrap();
        }
        std::os::unix::fs::symlink(&outside, own.join("directory")).unwrap();
        std::os::unix::fs::symlink(outside.join("secret"), own.join("sub/link")).unwrap();
        fs::hard_link(outside.join("twice"), own.join("second")).unwrap();
        if hand_over(other, &own).is_err() {
            return; // Only root can run this test.
        }
        let owner = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
        for given in [&own, &own.join("sub"), &own.join("sub/file"), &own.join("directory"), &own.join("sub/link")] {
            assert_eq!(owner(given), other.uid, "{}", given.display());
        }
        for kept in [&outside, &outside.join("secret"), &outside.join("twice")] {
            assert_ne!(owner(kept), other.uid, "{}", kept.display());
        }
        // The same if the directory itself is a link.
        hand_over(other, &own.join("directory")).unwrap();
        assert_ne!(owner(&outside.join("secret")), other.uid);
    }
}
