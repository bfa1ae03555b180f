//! Uses a plain directory instead of a cgroup of version 2. Unlike cgroups, new directories contain no files, and nothing
//! is refused.

use super::*;

const LIMIT: u64 = 128 * 1024 * 1024;
/// Larger than every process id (`/proc/sys/kernel/pid_max` in proc(5)).
const NOBODYS_PID: u32 = 1 << 23;

/// A cgroup with the memory controller that is not the root.
fn delegated() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    for (file, text) in
        [("cgroup.controllers", "cpu memory pids\n"), ("cgroup.type", "domain\n"), ("cgroup.subtree_control", "")]
    {
        fs::write(base.path().join(file), text).unwrap();
    }
    base
}

fn names() -> Names {
    Names::new(Path::new("/srv/data"), std::process::id())
}

fn below(base: &tempfile::TempDir) -> io::Result<Cgroups> {
    Cgroups::below(Version::Two, base.path().to_path_buf(), names(), LIMIT)
}

fn dirs(base: &tempfile::TempDir) -> Vec<String> {
    let entries = fs::read_dir(base.path()).unwrap().flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn text(base: &tempfile::TempDir, file: &str) -> String {
    fs::read_to_string(base.path().join(file)).unwrap()
}

#[test]
fn names_tell_data_directory_and_server() {
    let names = Names::new(Path::new("/srv/data"), 42);
    let name = names.of("7");
    assert!(name.starts_with("cweb-") && name.ends_with("-42-7"), "{name}");
    let (dead, alive) = (|_| false, |_| true);
    assert!(names.is_left(&name, alive), "no other process has the own pid");
    let other = Names::new(Path::new("/srv/data"), 43).of("server");
    assert!(names.is_left(&other, dead) && !names.is_left(&other, alive));
    assert!(!names.is_left(&Names::new(Path::new("/srv/other"), 43).of("7"), dead));
    for odd in ["", "cweb-", &names.prefix, &format!("{}x-1", names.prefix), &format!("{}43", names.prefix)] {
        assert!(!names.is_left(odd, dead), "{odd}");
    }
    assert!(is_alive(std::process::id()) && is_alive(1) && !is_alive(NOBODYS_PID) && !is_alive(u32::MAX));
}

#[test]
fn the_server_moves_before_it_gives_memory_on() {
    let base = delegated();
    let found = below(&base).unwrap();
    let leaf = names().of("server");
    assert_eq!(dirs(&base), std::slice::from_ref(&leaf), "the cgroup of the trial is removed");
    let pid = std::process::id().to_string();
    assert_eq!(text(&base, &format!("{leaf}/cgroup.procs")), pid);
    assert_eq!(text(&base, "cgroup.subtree_control"), "+memory");
    // The process also moves back.
    found.close(Duration::ZERO);
    assert_eq!((text(&base, "cgroup.subtree_control"), text(&base, "cgroup.procs")), ("-memory".to_owned(), pid));
    assert!(dirs(&base).is_empty());
}

#[test]
fn the_root_and_one_that_is_prepared_are_used_as_they_are() {
    let root = delegated();
    fs::remove_file(root.path().join("cgroup.type")).unwrap();
    below(&root).unwrap();
    assert!(dirs(&root).is_empty() && text(&root, "cgroup.subtree_control") == "+memory");
    let prepared = delegated();
    fs::write(prepared.path().join("cgroup.subtree_control"), "cpu memory\n").unwrap();
    below(&prepared).unwrap().close(Duration::ZERO);
    assert!(dirs(&prepared).is_empty() && text(&prepared, "cgroup.subtree_control") == "cpu memory\n");
}

#[test]
fn where_it_can_not_be_nothing_is_left() {
    let base = delegated();
    fs::write(base.path().join("cgroup.controllers"), "cpu memory_pressure pids\n").unwrap();
    let why = below(&base).unwrap_err().to_string();
    assert!(why.contains("memory controller") && dirs(&base).is_empty(), "{why}");
    // The memory controller can't be enabled: the server has moved by then and moves back.
    let base = delegated();
    fs::remove_file(base.path().join("cgroup.subtree_control")).unwrap();
    fs::create_dir(base.path().join("cgroup.subtree_control")).unwrap();
    let why = below(&base).unwrap_err().to_string();
    assert!(why.contains("cgroup.subtree_control"), "{why}");
    assert_eq!(dirs(&base), ["cgroup.subtree_control"]);
    assert_eq!(text(&base, "cgroup.procs"), std::process::id().to_string());
    let gone = Cgroups::below(Version::One, base.path().join("gone"), names(), LIMIT);
    assert!(gone.is_err());
}

#[test]
fn a_process_is_confined_until_it_is_over() {
    let base = delegated();
    let found = Arc::new(below(&base).unwrap());
    let (one, two) = (found.confine(1, 4711).unwrap(), found.confine(2, 4712).unwrap());
    let dir = names().of("1");
    assert_eq!(text(&base, &format!("{dir}/memory.max")), LIMIT.to_string());
    assert_eq!(text(&base, &format!("{dir}/cgroup.procs")), "4711");
    assert_eq!(one.out_of_memory(), None);
    fs::write(base.path().join(&dir).join("memory.events"), "oom 1\noom_kill 1\n").unwrap();
    assert_eq!(one.out_of_memory(), Some(OutOfMemory::Limit { bytes: LIMIT }));
    one.remove();
    assert_eq!(one.out_of_memory(), None);
    one.remove();
    assert_eq!(*lock(&found.count), 1);
    assert!(found.confine(2, 1).is_err(), "a number is used once");
    assert_eq!(*lock(&found.count), 1);
    let closing = Arc::clone(&found);
    let closer = std::thread::spawn(move || closing.close(Duration::from_secs(60)));
    drop(two);
    closer.join().unwrap();
    assert!(dirs(&base).is_empty());
}

#[test]
fn what_a_killed_server_left_is_removed() {
    let base = delegated();
    let dead = Names::new(Path::new("/srv/data"), NOBODYS_PID);
    let (alive, foreign) = (Names::new(Path::new("/srv/data"), 1), Names::new(Path::new("/srv/other"), NOBODYS_PID));
    for name in [dead.of("3"), dead.of("server"), names().of("0"), alive.of("3"), foreign.of("3"), "user".to_owned()] {
        fs::create_dir(base.path().join(&name)).unwrap();
        fs::write(base.path().join(&name).join("memory.max"), "1").unwrap();
    }
    below(&base).unwrap().close(Duration::ZERO);
    let mut left = [alive.of("3"), foreign.of("3"), "user".to_owned()];
    left.sort();
    assert_eq!(dirs(&base), left);
}
