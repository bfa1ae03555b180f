//! Directories of a process that is not root.

use super::User;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

/// Deeper directories are not looked into: a module could make a chain without end.
const DEPTH_MAX: usize = 64;

/// The first directory on the way to one of `paths`, itself included, that `user` can't enter, if there is one.
#[must_use]
pub fn closed_to(user: User, paths: &[PathBuf]) -> Option<PathBuf> {
    let ways = paths.iter().flat_map(|path| path.ancestors());
    ways.into_iter().find(|dir| !may_enter(user, dir)).map(Path::to_path_buf)
}

fn may_enter(user: User, dir: &Path) -> bool {
    // The bits of execution, which for a directory mean that what is in it can be reached.
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

/// Makes `user` the owner of `dir` and all in it. Links are not followed, and a file with a second name, which may lie
/// elsewhere, stays as it is.
///
/// # Errors
/// `lchown(2)` failed, or a directory can't be read.
pub fn hand_over(user: User, dir: &Path) -> io::Result<()> {
    hand_over_to(user, dir, 0)
}

fn hand_over_to(user: User, path: &Path, depth: usize) -> io::Result<()> {
    let data = fs::symlink_metadata(path)?;
    if !data.is_dir() && data.nlink() > 1 {
        return Ok(());
    }
    if (data.uid(), data.gid()) != (user.uid, user.gid) {
        lchown(path, Some(user.uid), Some(user.gid))?;
    }
    if data.is_dir() && depth < DEPTH_MAX {
        for entry in fs::read_dir(path)? {
            hand_over_to(user, &entry?.path(), depth + 1)?;
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
}
