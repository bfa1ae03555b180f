//! Compilations that one server has made, for the next: most of the time of a test program is the C compiler's, and what is
//! compiled depends neither on the isolation mode nor on the server. `CWEB_TEST_COMPILATIONS` names the directory they are kept
//! in, one for each test program; without it each server compiles for itself.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

fn kept() -> Option<PathBuf> {
    std::env::var_os("CWEB_TEST_COMPILATIONS").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Puts what is kept into the data directory `data` of a server that is about to start.
pub fn give_to(data: &Path) {
    if let Some(kept) = kept() {
        link_all(&kept, &data.join("modules/.objects"));
    }
}

/// Puts what other servers have compiled meanwhile into the data directory `data` of one that runs.
pub fn give_to_running(data: &Path) {
    let objects = data.join("modules/.objects");
    if let Some(kept) = kept().filter(|_| objects.exists()) {
        link_all(&kept, &objects);
    }
}

/// Keeps what is in the data directory `data`, unless the server has never made one.
pub fn take_from(data: &Path) {
    if let Some(kept) = kept() {
        link_all(&data.join("modules/.objects"), &kept);
    }
}

/// Links the files of each compilation in `from` into `to`, the shared object last: it says that the others are there.
fn link_all(from: &Path, to: &Path) {
    let Ok(entries) = fs::read_dir(from) else { return };
    // As the server makes them: nobody else may look into them.
    let _ = DirBuilder::new().recursive(true).mode(0o700).create(to);
    for entry in entries.flatten() {
        let object = entry.path();
        if object.extension().is_some_and(|extension| extension == "so") {
            for extension in ["c", "tar", "txt", "so"] {
                let file = object.with_extension(extension);
                if let Some(name) = file.file_name() {
                    // Some have no such file, and what is there already is the same.
                    let _ = fs::hard_link(&file, to.join(name));
                }
            }
        }
    }
}
