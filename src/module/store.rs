//! Sources and compilations on disk: deployed modules survive a restart, and compilations are reused.
//!
//! `DIR/.objects/KEY.{c,so,txt}` hold the source, the shared object and the warnings of each compilation; the key covers
//! all its inputs. A project's source has the suffix `.tar`, a ready shared object `.elf`. `DIR/.objects/HASH.ref` names the
//! compilation of a version. The [ledger](super::ledger) says which version is published as which module. Every file is written
//! under another name, synced and renamed, so a crash leaves the old file or the new one, but never a part.

use super::deploy::DeployError;
use super::durable::{Aside, both, remove_temporary_files, sync_dir};
use super::file_names::at;
use super::module_record::Record;
use super::project::Source;
use crate::domain::DEFAULT_DOMAIN;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The suffixes of source files: a single source, and a packed project.
const FILE: &str = "c";
const PROJECT: &str = "tar";
/// The suffix of a ready shared object, which is its own source: a second link to the same file.
const OBJECT: &str = "elf";

/// Limit on the stored compilations that no module uses.
const SPARE_OBJECTS_MAX: usize = 256;

/// The module store.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the store in `dir`, creates directories if necessary, and removes files that a crash has left.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let store = Self { dir: dir.to_path_buf() };
        fs::create_dir_all(store.objects())?;
        fs::create_dir_all(store.units())?;
        if store.scratch().exists() {
            fs::remove_dir_all(store.scratch())?;
        }
        fs::DirBuilder::new().mode(0o700).create(store.scratch())?;
        fs::create_dir_all(store.run_dir())?;
        // The directories themselves stay, since a sandbox may have opened them already.
        for entry in fs::read_dir(store.run_dir())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::read_dir(entry.path())?.try_for_each(|file| fs::remove_file(file?.path()))?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        remove_temporary_files(&store.objects())?;
        remove_temporary_files(&store.units())?;
        Ok(store)
    }

    fn objects(&self) -> PathBuf {
        self.dir.join(".objects")
    }

    /// The directory for unit objects of projects: a cache, which may be empty after any restart.
    pub(super) fn units(&self) -> PathBuf {
        self.dir.join(".units")
    }

    /// The directory for compilations, closed to other users because processes of the compiler's user may try to reach it.
    pub(super) fn scratch(&self) -> PathBuf {
        self.dir.join(".scratch")
    }

    /// The directory for loaded shared objects: one directory for each domain, one file for each generation.
    pub(super) fn run_dir(&self) -> PathBuf {
        self.dir.join(".run")
    }

    /// The shared object of compilation `key`.
    pub(super) fn object(&self, key: &str) -> PathBuf {
        self.objects().join(format!("{key}.so"))
    }

    /// The warnings of compilation `key`, if its result is stored.
    pub(super) fn cached(&self, key: &str) -> Option<String> {
        self.object(key)
            .exists()
            .then(|| fs::read_to_string(self.objects().join(format!("{key}.txt"))).unwrap_or_default())
    }

    /// Writes the files of a compilation whose shared object is the file `so`. No other file refers to them before
    /// [`Kept::commit`].
    pub(super) fn prepare(&self, key: &str, source: &Source, so: &Path, warnings: &str) -> io::Result<Kept> {
        let object = self.object(key);
        if source.object().is_some() {
            return self.prepare_object(&object, so, warnings);
        }
        let (packed, extension) = (source.packed()?, if source.is_project() { PROJECT } else { FILE });
        let (so, texts) = both(
            || {
                let synced = File::open(so).and_then(|file| file.sync_all()).map_err(at(so));
                synced.map(|()| Aside::of(so.to_path_buf(), object.clone()))
            },
            || {
                both(
                    || Aside::write(&object.with_extension(extension), &packed),
                    || Aside::write(&object.with_extension("txt"), warnings.as_bytes()),
                )
            },
        )?;
        let (source, warnings) = texts?;
        Ok(Kept { files: [source?, warnings?, so?] })
    }

    /// Like [`Store::prepare`], for a ready shared object.
    fn prepare_object(&self, object: &Path, so: &Path, warnings: &str) -> io::Result<Kept> {
        File::open(so).and_then(|file| file.sync_all()).map_err(at(so))?;
        let link = so.with_extension("source");
        let source = Aside::of(link.clone(), object.with_extension(OBJECT));
        if fs::hard_link(so, &link).is_err() {
            fs::copy(so, &link).map_err(at(so))?;
        }
        let so = Aside::of(so.to_path_buf(), object.to_path_buf());
        Ok(Kept { files: [source, Aside::write(&object.with_extension("txt"), warnings.as_bytes())?, so] })
    }

    /// The source of compilation `key`.
    pub(super) fn source(&self, key: &str) -> Result<Source, DeployError> {
        let path = |extension| self.objects().join(format!("{key}.{extension}"));
        let project = path(PROJECT);
        if project.exists() {
            return Source::kept(fs::read(&project).map_err(at(&project))?, true);
        }
        let object = path(OBJECT);
        let file = if object.exists() { object } else { path(FILE) };
        Source::kept(fs::read(&file).map_err(at(&file))?, false)
    }

    /// The directory of the modules' settings.
    pub(super) fn settings_dir(&self) -> PathBuf {
        self.dir.join(".settings")
    }

    /// The key of the compilation of the version `hash`.
    pub(super) fn key_of(&self, hash: &str) -> io::Result<String> {
        Ok(first_line(&fs::read_to_string(self.reference(hash))?).to_owned())
    }

    /// The domain that the version `hash` was last deployed into.
    pub(super) fn domain_of(&self, hash: &str) -> String {
        let text = fs::read_to_string(self.reference(hash)).unwrap_or_default();
        text.lines().nth(1).filter(|domain| !domain.is_empty()).unwrap_or(DEFAULT_DOMAIN).to_owned()
    }

    /// The file name under which the version `hash` was compiled, if its author gave one.
    pub(super) fn source_name_of(&self, hash: &str) -> Option<String> {
        let text = fs::read_to_string(self.reference(hash)).ok()?;
        text.lines().nth(2).map(str::to_owned)
    }

    /// The file that names the compilation of the version `hash`. A second line names its domain, if that is not the
    /// default domain; a third line is the name under which the source was compiled.
    fn reference(&self, hash: &str) -> PathBuf {
        self.objects().join(format!("{hash}.ref"))
    }

    /// Writes the reference of the version in `record`, durably, and makes the names of its compilation's files durable.
    pub(super) fn refer(&self, record: &Record) -> io::Result<()> {
        let domain = Some(&record.domain).filter(|domain| *domain != DEFAULT_DOMAIN);
        let mut reference = domain.map_or_else(|| record.key.clone(), |domain| format!("{}\n{domain}", record.key));
        if let Some(name) = &record.fields.source_name {
            reference = format!("{}\n{}\n{name}", record.key, domain.map_or("", String::as_str));
        }
        Aside::write(&self.reference(&record.hash), reference.as_bytes())?.rename()?;
        sync_dir(&self.objects())
    }

    /// Removes the oldest compilations whose keys are not in `used`, and which are not of the versions `needed`.
    pub(super) fn tidy(
        &self,
        used: impl FnOnce() -> io::Result<HashSet<String>>,
        needed: &HashSet<String>,
    ) -> io::Result<()> {
        let count = fs::read_dir(self.objects())?.flatten().filter(|entry| is_object(&entry.path())).count();
        if count <= SPARE_OBJECTS_MAX {
            return Ok(());
        }
        let mut used = used()?;
        used.extend(needed.iter().filter_map(|hash| self.key_of(hash).ok()));
        let mut spare: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(self.objects())? {
            let entry = entry?;
            let path = entry.path();
            let key = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if is_object(&path) && !used.contains(key) {
                spare.push((entry.metadata()?.modified()?, path));
            }
        }
        spare.sort();
        let excess = spare.len().saturating_sub(SPARE_OBJECTS_MAX);
        if excess == 0 {
            return Ok(());
        }
        for (_, path) in spare.into_iter().take(excess) {
            for extension in ["so", FILE, PROJECT, OBJECT, "txt"] {
                let _ = fs::remove_file(path.with_extension(extension));
            }
        }
        self.tidy_refs()
    }

    /// Removes references to removed compilations.
    fn tidy_refs(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.objects())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "ref")
                && fs::read_to_string(&path).is_ok_and(|text| !self.object(first_line(&text)).exists())
            {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Removes all sources and compilations.
    pub(super) fn purge(&self) -> io::Result<()> {
        fs::remove_dir_all(self.units())?;
        fs::remove_dir_all(self.objects())
    }
}

/// A compilation that is written and synced under temporary names.
#[must_use]
pub(super) struct Kept {
    /// The shared object is last: its presence means that the others exist.
    files: [Aside; 3],
}

impl Kept {
    /// Gives the files their names. A crash may lose or keep them; [`Store::refer`] makes them durable.
    pub(super) fn commit(self) -> io::Result<()> {
        self.files.into_iter().try_for_each(Aside::rename)
    }
}

fn is_object(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "so")
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::deploy::SourceFields;
    use super::*;

    fn record(name: &str, deployed_ms: u64) -> Record {
        Record::for_tests(name, deployed_ms)
    }

    #[test]
    fn what_is_not_committed_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let so = store.scratch().join("x.so");
        fs::write(&so, "so").unwrap();
        drop(store.prepare("k", &Source::File(b"source".to_vec()), &so, "").unwrap());
        assert!(store.cached("k").is_none());
        assert_eq!(fs::read_dir(store.objects()).unwrap().count(), 0);
    }

    #[test]
    fn a_reference_has_the_compilation_the_domain_and_the_name_of_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.refer(&Record { domain: "image".into(), ..record("new", 1) }).unwrap();
        assert_eq!((store.key_of("h").unwrap().as_str(), store.domain_of("h").as_str()), ("k", "image"));
        let fields = SourceFields { source_name: Some("a.c".to_owned()), ..SourceFields::default() };
        let named = Record { hash: "n".into(), fields, ..record("named", 3) };
        store.refer(&named).unwrap();
        assert_eq!(
            (store.domain_of("n").as_str(), store.source_name_of("n").as_deref()),
            (DEFAULT_DOMAIN, Some("a.c"))
        );
        store.refer(&Record { domain: "image".into(), ..named }).unwrap();
        assert_eq!((store.domain_of("n").as_str(), store.source_name_of("n").as_deref()), ("image", Some("a.c")));
        assert_eq!((store.key_of("n").unwrap().as_str(), store.source_name_of("h")), ("k", None));
        // The form from before domains existed, and still the form for the default domain.
        fs::write(dir.path().join(".objects/o.ref"), "key").unwrap();
        assert_eq!((store.key_of("o").unwrap().as_str(), store.domain_of("o").as_str()), ("key", DEFAULT_DOMAIN));
    }

    #[test]
    fn one_compilation_can_be_kept_by_many_at_once_and_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let store = &store;
                scope.spawn(move || {
                    for _ in 0..20 {
                        let so = store.scratch().join(format!("{thread}.so"));
                        fs::write(&so, "so").unwrap();
                        store.prepare("k", &Source::File(b"source".to_vec()), &so, "").unwrap().commit().unwrap();
                    }
                });
            }
        });
        fs::write(store.objects().join("k.7.new"), "half").unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(store.objects()).unwrap().count(), 3);
    }

    #[test]
    fn compilations_are_kept_and_spare_ones_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let keep = |key: &str| {
            let so = store.scratch().join("x.so");
            fs::write(&so, "so").unwrap();
            store.prepare(key, &Source::File(b"source".to_vec()), &so, "warnings").unwrap().commit().unwrap();
        };
        keep("k");
        for n in 0..SPARE_OBJECTS_MAX + 3 {
            keep(&format!("spare{n}"));
        }
        for (hash, key) in [("old", "gone"), ("needed", "spare0"), ("h", "k")] {
            store.refer(&Record { key: key.into(), hash: hash.into(), ..record("used", 1) }).unwrap();
        }
        let used = || Ok(HashSet::from(["k".to_owned()]));
        store.tidy(used, &HashSet::from(["needed".to_owned()])).unwrap();
        assert!(store.key_of("old").is_err());
        assert_eq!(store.key_of("needed").unwrap(), "spare0");
        assert!(store.cached("spare0").is_some() && store.cached("spare1").is_none());
        assert_eq!(store.cached("k").as_deref(), Some("warnings"));
        assert_eq!(store.source("k").unwrap(), Source::File(b"source".to_vec()));
        let objects = fs::read_dir(store.objects()).unwrap().count();
        assert_eq!(objects, (SPARE_OBJECTS_MAX + 2) * 3 + 2, "with the names of two versions");
    }
}
