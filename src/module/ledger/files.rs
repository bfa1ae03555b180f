//! The ledger as files: `DIR/NAME.json` is the publication of the module NAME, and writing it is the commit point.
//! `DIR/.versions/NAME.json` has the kept versions.

use super::publication::{Draft, Ledger, Publication};
use crate::module::durable::{Aside, remove_temporary_files, sync_dir};
use crate::module::file_names::{at, file_name, rename_long};
use crate::module::module_record::Record;
use crate::module::versions::{self, Version};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The ledger in a directory.
#[derive(Debug)]
pub(in crate::module) struct FileLedger {
    dir: PathBuf,
}

impl FileLedger {
    /// Opens the ledger in `dir`, creates directories if necessary, and removes files that a crash has left.
    pub(in crate::module) fn open(dir: &Path) -> io::Result<Self> {
        let ledger = Self { dir: dir.to_path_buf() };
        fs::create_dir_all(ledger.versions_dir())?;
        remove_temporary_files(&ledger.dir)?;
        remove_temporary_files(&ledger.versions_dir())?;
        rename_long(&[dir, &ledger.versions_dir(), &dir.join(".settings")])?;
        Ok(ledger)
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{}.json", file_name(name)))
    }

    fn versions_dir(&self) -> PathBuf {
        self.dir.join(".versions")
    }

    fn versions_path(&self, name: &str) -> PathBuf {
        self.versions_dir().join(format!("{}.json", file_name(name)))
    }
}

impl Ledger for FileLedger {
    fn published(&self) -> io::Result<Vec<Record>> {
        let mut records: Vec<Record> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match fs::read(&path).and_then(|text| Ok(serde_json::from_slice::<Record>(&text)?)) {
                // A copy of a record, which an operator has made beside it, would compete with the record at the next start.
                Ok(record) if path != self.record_path(&record.name) => {
                    tracing::error!(
                        "{} is not the file of module {:?}; the file is ignored",
                        path.display(),
                        record.name
                    );
                }
                Ok(record) => records.push(record),
                Err(error) => tracing::error!("{}: {error}; this module is skipped", path.display()),
            }
        }
        records.sort_by_key(|record| record.deployed_ms);
        Ok(records)
    }

    fn record(&self, name: &str) -> Option<Record> {
        let text = fs::read(self.record_path(name)).ok()?;
        serde_json::from_slice(&text).ok().filter(|record: &Record| record.name == name)
    }

    fn has(&self, name: &str) -> bool {
        self.record_path(name).exists()
    }

    fn versions(&self, name: &str) -> io::Result<Vec<Version>> {
        // A crash in a first commit, or in a withdrawal, leaves a list without a record. A new module must not inherit the list.
        if !self.has(name) {
            return Ok(Vec::new());
        }
        let path = self.versions_path(name);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| at(&path)(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(at(&path)(error)),
        }
    }

    fn keys(&self) -> io::Result<HashSet<String>> {
        let mut keys: HashSet<String> = self.published()?.into_iter().map(|record| record.key).collect();
        for entry in fs::read_dir(self.versions_dir())? {
            // A draft's list counts, because its commit may come at any time. If the list is renamed before this read, the read
            // fails: a caller that removes compilations must not go on without that list's keys.
            let text = fs::read(entry?.path())?;
            let list: Vec<Version> = serde_json::from_slice(&text).unwrap_or_default();
            keys.extend(list.into_iter().map(|version| version.key));
        }
        Ok(keys)
    }

    fn prepare(&self, publication: Publication<'_>) -> io::Result<Box<dyn Draft>> {
        let Publication { record, version, kept } = publication;
        let mut list = self.versions(&record.name)?;
        let before = self.record(&record.name).map(|before| before.version);
        let live = list.iter().find(|known| Some(known.number) == before).cloned();
        versions::add(&mut list, version.clone(), kept, record.version);
        let write = |list: &[Version]| Aside::write(&self.versions_path(&record.name), &serde_json::to_vec(list)?);
        let versions = write(&list)?;
        // The version that is live until the commit may be among the removed versions.
        let with_live = live.filter(|live| list.iter().all(|known| known.number != live.number)).map(|live| {
            list.push(live);
            list.sort_by_key(|version| version.number);
            write(&list)
        });
        let (versions, trimmed) = match with_live {
            Some(with_live) => (with_live?, Some(versions)),
            None => (versions, None),
        };
        let record = Aside::write(&self.record_path(&record.name), &serde_json::to_vec_pretty(record)?)?;
        Ok(Box::new(FileDraft { versions, trimmed, versions_dir: self.versions_dir(), record, dir: self.dir.clone() }))
    }

    fn withdraw(&self, name: &str) -> io::Result<()> {
        // The record goes first: without it, the list of versions has no effect. After an error, a repeated call removes the rest.
        remove_if_exists(&self.record_path(name))?;
        sync_dir(&self.dir)?;
        remove_if_exists(&self.versions_path(name))?;
        sync_dir(&self.versions_dir())
    }

    fn purge(&self) -> io::Result<()> {
        for dir in [&self.dir, &self.versions_dir()] {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "json") {
                    fs::remove_file(&path).map_err(at(&path))?;
                }
            }
        }
        sync_dir(&self.dir)
    }
}

fn remove_if_exists(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// The files, written and synced under temporary names.
struct FileDraft {
    /// The list until the record has its name. This list also has the version that is live before the commit.
    versions: Aside,
    /// The list without the version that was live before, if that version is not kept.
    trimmed: Option<Aside>,
    versions_dir: PathBuf,
    record: Aside,
    dir: PathBuf,
}

impl Draft for FileDraft {
    /// The list of versions comes first. A crash between the two files leaves a version that was never live, but no live version
    /// without an entry.
    fn commit(self: Box<Self>) -> io::Result<()> {
        self.versions.rename()?;
        sync_dir(&self.versions_dir)?;
        self.record.rename()?;
        sync_dir(&self.dir)?;
        // The version is live. Without this rename the list has one entry too many, until the next publication.
        if let Some(Err(error)) = self.trimmed.map(Aside::rename) {
            tracing::warn!("a version beyond the limit could not be removed from the list: {error}");
        }
        Ok(())
    }
}
