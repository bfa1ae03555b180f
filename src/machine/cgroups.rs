//! Finds the directory of the server's own memory cgroup from the contents of files in `/proc/self`. Reads no files itself.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// The two kinds of hierarchies that limit memory (cgroups(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Version 1, in which each controller may have a hierarchy of its own.
    One,
    /// Version 2: one hierarchy for all controllers.
    Two,
}

/// A directory that is the server's cgroup in a hierarchy that may have the memory controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupDir {
    /// The kind of the hierarchy.
    pub version: Version,
    /// The directory.
    pub dir: PathBuf,
}

/// The directories to try, the best first, from the contents of `/proc/self/cgroup` (cgroups(7)) and
/// `/proc/self/mountinfo` (proc_pid_mountinfo(5)). If a hierarchy is mounted several times, the result has each mount, because
/// one of them may be read-only.
pub(super) fn places(own: &[u8], mounts: &[u8]) -> Vec<CgroupDir> {
    let mounts: Vec<Mount> = lines(mounts).filter_map(Mount::parse).collect();
    let in_version = |version| {
        let own = lines(own).find_map(move |line| own_path(line, version));
        let found = mounts.iter().filter(move |mount| mount.version == version);
        found.filter_map(move |mount| Some(CgroupDir { version, dir: mount.dir_of(own.as_ref()?)? }))
    };
    in_version(Version::Two).chain(in_version(Version::One)).collect()
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

fn has_memory(list: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|name| name == b"memory")
}

/// The path in a line `number:controllers:path` of `/proc/self/cgroup`, if the line is about the wanted hierarchy. The kernel
/// does not escape the path, so the path may contain colons.
fn own_path(line: &[u8], version: Version) -> Option<PathBuf> {
    let mut fields = line.splitn(3, |byte| *byte == b':');
    let (number, controllers, own) = (fields.next()?, fields.next()?, fields.next()?);
    let wanted = match version {
        Version::Two => number == b"0" && controllers.is_empty(),
        Version::One => has_memory(controllers),
    };
    wanted.then(|| path(own.to_vec()))
}

/// A mounted hierarchy: its directory `root` is at `point`.
struct Mount {
    version: Version,
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// Reads a line of mountinfo: `id parent device root point options [tag…] - type source options`.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let (kind, options) = (fields.next()?, fields.nth(1)?);
        let version = match kind {
            b"cgroup2" => Version::Two,
            b"cgroup" if has_memory(options) => Version::One,
            _ => return None,
        };
        Some(Self { version, root: path(unescaped(root)), point: path(unescaped(point)) })
    }

    /// The directory of the cgroup `own` below this mount. `None`: the cgroup is outside of the mount, as in a container in
    /// which only a part of the hierarchy is mounted.
    fn dir_of(&self, own: &Path) -> Option<PathBuf> {
        let below = own.strip_prefix(&self.root).ok()?;
        let inside = below.components().all(|part| matches!(part, Component::Normal(_)));
        // The components are joined one by one, so that the path does not end with a slash.
        inside.then(|| below.components().fold(self.point.clone(), |dir, part| dir.join(part)))
    }
}

/// Blanks, tabs, newlines and backslashes are written as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, behind)) = rest.split_first() {
        let digits =
            behind.get(..3).filter(|digits| first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        let code = digits.map(|digits| digits.iter().fold(0_u32, |code, digit| code * 8 + u32::from(digit - b'0')));
        match code.and_then(|code| u8::try_from(code).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = behind.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(own: &str, mounts: &str) -> Vec<(Version, String)> {
        let places = places(own.as_bytes(), mounts.as_bytes());
        places.into_iter().map(|place| (place.version, place.dir.display().to_string())).collect()
    }

    fn two(dir: &str) -> Vec<(Version, String)> {
        vec![(Version::Two, dir.to_owned())]
    }

    fn one(dir: &str) -> Vec<(Version, String)> {
        vec![(Version::One, dir.to_owned())]
    }

    const V2: &str = "25 1 0:22 / /proc rw - proc proc rw\n\
        35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 master:2 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";

    #[test]
    fn version_two_alone() {
        let own = "0::/system.slice/cweb.service\n";
        assert_eq!(found(own, V2), two("/sys/fs/cgroup/system.slice/cweb.service"));
        assert_eq!(found("0::/\n", V2), two("/sys/fs/cgroup"), "the server is in a namespace, or in the root cgroup");
    }

    #[test]
    fn version_one_alone_also_with_controllers_together() {
        assert_eq!(found("4:memory:/a/b\n3:cpuset:/c\n", V1), one("/sys/fs/cgroup/memory/a/b"));
        let together = V1.replace("rw,memory\n", "rw,cpu,memory\n");
        assert_eq!(found("2:cpu,memory:/a\n1:name=systemd:/b\n", &together), one("/sys/fs/cgroup/memory/a"));
        assert_eq!(found("4:memory_other,xmemory:/a\n", V1), []);
    }

    #[test]
    fn both_at_once_with_version_two_first() {
        let mounts = format!("{V1}41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let both = [two("/sys/fs/cgroup/unified"), one("/sys/fs/cgroup/memory/box")].concat();
        assert_eq!(found("9:name=systemd:/\n4:memory:/box\n0::/\n", &mounts), both);
    }

    #[test]
    fn none() {
        assert_eq!(found("", ""), []);
        assert_eq!(found("0::/x\n", V1), [], "only the other hierarchy is mounted");
        assert_eq!(found("4:memory:/x\n", V2), []);
        assert_eq!(found("no line\n0:\n", V2), []);
        assert_eq!(found("0::/x\n", "35 24 0:30 /\n- cgroup2\n35 24 0:30 / /here rw - cgroup2\n"), []);
    }

    #[test]
    fn a_container_that_sees_its_part_only() {
        let mounts = V1.replace("0:32 / /sys", "0:32 /docker/abc /sys");
        assert_eq!(found("4:memory:/docker/abc\n", &mounts), one("/sys/fs/cgroup/memory"));
        assert_eq!(found("4:memory:/docker/abc/in\n", &mounts), one("/sys/fs/cgroup/memory/in"));
        for outside in ["/docker/abcd", "/docker", "/", "/../other", "/docker/abc/../other"] {
            assert_eq!(found(&format!("4:memory:{outside}\n"), &mounts), [], "{outside}");
        }
        let moved = V2.replace("0:30 / ", "0:30 /../.. ");
        assert_eq!(found("0::/x\n", &moved), []);
        assert_eq!(found("0::/../x\n", V2), [], "the server is outside of its namespace");
    }

    #[test]
    fn every_mount_is_a_place() {
        let twice = format!("{V2}99 24 0:30 / /run/my\\040cgroups\\134x rw - cgroup2 none rw\n");
        let both = [two("/sys/fs/cgroup/a"), two("/run/my cgroups\\x/a")].concat();
        assert_eq!(found("0::/a\n", &twice), both);
    }

    #[test]
    fn odd_paths() {
        assert_eq!(found("0::/a:b c\\x2d/with:colons\n", V2), two("/sys/fs/cgroup/a:b c\\x2d/with:colons"));
        let spaced = V1.replace("0:32 / /sys", "0:32 /a\\040b /sys");
        assert_eq!(found("4:memory:/a b/c\n", &spaced), one("/sys/fs/cgroup/memory/c"));
        assert_eq!(unescaped(br"a\040\011\134\9\4"), b"a \t\\\\9\\4");
        assert_eq!(unescaped(br"\777"), br"\777", "no byte");
        let places = places(b"0::/\xff\xfe\n", V2.as_bytes());
        assert_eq!(places.first().unwrap().dir, path(b"/sys/fs/cgroup/\xff\xfe".to_vec()));
    }
}
