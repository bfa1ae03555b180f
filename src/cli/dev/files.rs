//! Changes of the files that `cweb dev` watches.

use notify::{RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, SystemTime};

/// How long to wait for further changes, because an editor makes several when it saves a file.
const SETTLE: Duration = Duration::from_millis(50);
/// The interval for checking the files, and for trying a missing server again, if no change is reported.
const LOOK: Duration = Duration::from_millis(500);

/// Watches the directories of the files, since an editor may replace a file. If the system has no watcher, only the
/// interval checks find changes.
pub(super) fn watch(files: &[PathBuf]) -> (Receiver<()>, Option<impl Watcher>) {
    let (sender, changes) = mpsc::channel();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is an event, too: this command's own reads would wake it again and again.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = sender.send(());
        }
    });
    let watcher = watcher.ok().map(|mut watcher| {
        let dirs: BTreeSet<(&Path, bool)> = files
            .iter()
            .map(|file| if file.is_dir() { (file.as_path(), true) } else { (parent(file), false) })
            .collect();
        for (dir, is_project) in dirs {
            let mode = if is_project { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
            if let Err(error) = watcher.watch(dir, mode) {
                println!("{} can't be watched, so it is checked every 500 ms: {error}", dir.display());
            }
        }
        watcher
    });
    (changes, watcher)
}

pub(super) fn parent(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Waits for a change, and for the further changes that come with it.
pub(super) fn wait(changes: &Receiver<()>) {
    if changes.recv_timeout(LOOK).is_ok() {
        std::thread::sleep(SETTLE);
        while changes.try_recv().is_ok() {}
    } else {
        // Without a watcher the receive returns at once.
        std::thread::sleep(SETTLE);
    }
}

/// The time of the last change of the file, or of any file of the project in the directory; `None`: there is no file.
pub(super) fn last_change(file: &Path) -> Option<SystemTime> {
    let found = std::fs::metadata(file).ok()?;
    if !found.is_dir() {
        return found.modified().ok();
    }
    let (mut last, mut dirs) = (found.modified().ok(), vec![file.to_path_buf()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type());
            let name = path.components().next_back();
            if matches!(name, Some(Component::Normal(name)) if name.to_string_lossy().starts_with('.')) {
                continue;
            }
            last = last.max(entry.metadata().ok().and_then(|found| found.modified().ok()));
            if kind.is_ok_and(|kind| kind.is_dir()) {
                dirs.push(path);
            }
        }
    }
    last
}
