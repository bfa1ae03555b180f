//! The contract of a ledger, which every implementation must hold.

use super::memory::{Memory, MemoryLedger};
use super::{FileLedger, Ledger, Publication};
use crate::module::module_record::Record;
use crate::module::versions::Version;
use std::fs;

/// A ledger under test.
trait Subject {
    /// The state that outlives an open ledger.
    type Home;

    fn home() -> Self::Home;
    /// Opens the ledger, as a start of the server does.
    fn open(home: &Self::Home) -> Box<dyn Ledger>;
}

struct InFiles;

impl Subject for InFiles {
    type Home = tempfile::TempDir;

    fn home() -> Self::Home {
        tempfile::tempdir().unwrap()
    }

    fn open(home: &Self::Home) -> Box<dyn Ledger> {
        Box::new(FileLedger::open(home.path()).unwrap())
    }
}

struct InMemory;

impl Subject for InMemory {
    type Home = Memory;

    fn home() -> Self::Home {
        Memory::default()
    }

    fn open(home: &Self::Home) -> Box<dyn Ledger> {
        Box::new(MemoryLedger(home.clone()))
    }
}

const KEPT: usize = 3;

/// Version `number` of the module `name`, first deployed at `deployed_ms`.
fn record(name: &str, number: u64, deployed_ms: u64) -> Record {
    let (hash, key) = (format!("{name} {number} hash"), format!("{name} {number} key"));
    Record { hash, key, version: number, ..Record::for_tests(name, deployed_ms) }
}

fn version(record: &Record, by: &str) -> Version {
    Version { by: by.to_owned(), message: "why".to_owned(), at_ms: 7, ..Version::of_record(record) }
}

fn publish(ledger: &dyn Ledger, record: &Record) {
    let version = version(record, "ann");
    ledger.prepare(Publication { record, version: &version, kept: KEPT }).unwrap().commit().unwrap();
}

fn numbers(ledger: &dyn Ledger, name: &str) -> Vec<u64> {
    ledger.versions(name).unwrap().iter().map(|version| version.number).collect()
}

fn names(ledger: &dyn Ledger) -> Vec<String> {
    ledger.published().unwrap().into_iter().map(|record| record.name).collect()
}

fn a_publication_is_there_as_committed_and_after_a_restart<S: Subject>() {
    let home = S::home();
    let record = Record { domain: "image".to_owned(), ..record("shop", 1, 5) };
    publish(&*S::open(&home), &record);
    // The second opening is like an opening after a restart.
    for _ in 0..2 {
        let ledger = S::open(&home);
        assert_eq!(ledger.published().unwrap(), std::slice::from_ref(&record));
        assert_eq!(ledger.record("shop"), Some(record.clone()));
        assert_eq!(ledger.versions("shop").unwrap(), [version(&record, "ann")]);
        assert_eq!((ledger.has("shop"), ledger.has("shops")), (true, false));
        assert_eq!((ledger.record("shops"), numbers(&*ledger, "shops")), (None, vec![]));
    }
}

fn what_is_not_committed_changes_nothing<S: Subject>() {
    let home = S::home();
    let ledger = S::open(&home);
    let (first, second) = (record("shop", 1, 5), record("shop", 2, 5));
    let prepare = |record: &Record| {
        let version = version(record, "bob");
        ledger.prepare(Publication { record, version: &version, kept: KEPT }).unwrap()
    };
    drop(prepare(&first));
    assert!(!ledger.has("shop") && ledger.published().unwrap().is_empty() && numbers(&*ledger, "shop").is_empty());
    publish(&*ledger, &first);
    let draft = prepare(&second);
    let is_as_before = |ledger: &dyn Ledger| {
        assert_eq!(ledger.record("shop"), Some(first.clone()));
        assert_eq!(ledger.versions("shop").unwrap(), [version(&first, "ann")]);
        assert!(ledger.keys().unwrap().contains("shop 1 key"));
    };
    is_as_before(&*ledger);
    drop(draft);
    is_as_before(&*ledger);
    assert_eq!(ledger.keys().unwrap().len(), 1);
    is_as_before(&*S::open(&home));
}

fn the_newest_versions_and_the_live_one_are_kept<S: Subject>() {
    let home = S::home();
    let ledger = S::open(&home);
    for number in 1..=5 {
        publish(&*ledger, &record("shop", number, 5));
    }
    assert_eq!(numbers(&*ledger, "shop"), [3, 4, 5]);
    // Version 3 is deployed again, and is live while a draft of version 6 is given up.
    let again = record("shop", 3, 5);
    let moved = Version { key: "compiled again".to_owned(), ..version(&again, "bob") };
    ledger.prepare(Publication { record: &again, version: &moved, kept: KEPT }).unwrap().commit().unwrap();
    assert_eq!((numbers(&*ledger, "shop"), ledger.record("shop").unwrap().version), (vec![3, 4, 5], 3));
    assert_eq!(ledger.versions("shop").unwrap()[0], moved);
    publish(&*ledger, &record("shop", 6, 5));
    assert_eq!(numbers(&*S::open(&home), "shop"), [4, 5, 6]);
}

fn modules_come_in_the_order_of_their_first_deployment_whatever_their_names<S: Subject>() {
    let home = S::home();
    let ledger = S::open(&home);
    let long = "/".repeat(127);
    let expected = [long.as_str(), "ü x", "a/../b", ".b", "b"];
    for (at, name) in expected.iter().enumerate().rev() {
        publish(&*ledger, &record(name, 1, at as u64));
    }
    publish(&*ledger, &record("b", 2, 4));
    assert_eq!((names(&*ledger), names(&*S::open(&home))), (expected.map(str::to_owned).to_vec(), names(&*ledger)));
    for name in expected {
        assert_eq!(ledger.record(name).unwrap().name, name);
    }
}

fn a_withdrawn_module_is_gone_with_its_versions<S: Subject>() {
    let home = S::home();
    let ledger = S::open(&home);
    publish(&*ledger, &record("shop", 1, 5));
    publish(&*ledger, &record("shop", 2, 5));
    publish(&*ledger, &record("blog", 1, 6));
    let keys = |ledger: &dyn Ledger| {
        let mut keys: Vec<String> = ledger.keys().unwrap().into_iter().collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&*ledger), ["blog 1 key", "shop 1 key", "shop 2 key"]);
    for _ in 0..2 {
        ledger.withdraw("shop").unwrap();
        assert!(!ledger.has("shop") && ledger.record("shop").is_none() && numbers(&*ledger, "shop").is_empty());
        assert_eq!((names(&*ledger), keys(&*ledger)), (vec!["blog".to_owned()], vec!["blog 1 key".to_owned()]));
    }
    assert_eq!(names(&*S::open(&home)), ["blog"]);
    // A new module of that name inherits nothing.
    publish(&*ledger, &record("shop", 1, 9));
    assert_eq!((names(&*ledger), numbers(&*ledger, "shop")), (vec!["blog".to_owned(), "shop".to_owned()], vec![1]));
}

fn modules_are_published_at_once<S: Subject>() {
    let home = S::home();
    let ledger = S::open(&home);
    std::thread::scope(|scope| {
        for module in 0..8 {
            let ledger = &*ledger;
            scope.spawn(move || {
                for number in 1..=5 {
                    publish(ledger, &record(&format!("m{module}"), number, module));
                }
            });
        }
    });
    assert_eq!(names(&*ledger), (0..8).map(|module| format!("m{module}")).collect::<Vec<_>>());
    for name in names(&*ledger) {
        assert_eq!((numbers(&*ledger, &name), ledger.record(&name).unwrap().version), (vec![3, 4, 5], 5));
    }
}

fn a_purged_ledger_has_nothing<S: Subject>() {
    let home = S::home();
    let ledger = S::open(&home);
    publish(&*ledger, &record("shop", 1, 5));
    publish(&*ledger, &record("blog", 1, 6));
    ledger.purge().unwrap();
    assert!(!ledger.has("shop") && ledger.published().unwrap().is_empty() && ledger.keys().unwrap().is_empty());
    assert!(numbers(&*S::open(&home), "blog").is_empty());
}

fn a_module_named_like_the_hash_of_another_is_not_the_other<S: Subject>() {
    use sha2::{Digest, Sha256};
    let home = S::home();
    let ledger = S::open(&home);
    let long = "/".repeat(127);
    let like = crate::module::sdk::hex(&Sha256::digest(long.as_bytes()));
    publish(&*ledger, &record(&long, 1, 5));
    publish(&*ledger, &record(&like, 1, 6));
    assert_eq!(names(&*S::open(&home)), [long.clone(), like.clone()]);
    ledger.withdraw(&like).unwrap();
    assert_eq!((numbers(&*ledger, &long), names(&*ledger)), (vec![1], vec![long]));
}

/// Makes a test of each function for each ledger.
macro_rules! contract {
    ($($name:ident),+ $(,)?) => {
        mod in_files {
            $(#[test]
            fn $name() {
                super::$name::<super::InFiles>();
            })+
        }
        mod in_memory {
            $(#[test]
            fn $name() {
                super::$name::<super::InMemory>();
            })+
        }
    };
}

contract! {
    a_publication_is_there_as_committed_and_after_a_restart,
    what_is_not_committed_changes_nothing,
    the_newest_versions_and_the_live_one_are_kept,
    modules_come_in_the_order_of_their_first_deployment_whatever_their_names,
    a_withdrawn_module_is_gone_with_its_versions,
    modules_are_published_at_once,
    a_purged_ledger_has_nothing,
    a_module_named_like_the_hash_of_another_is_not_the_other,
}

/// The list of versions says who owns the module: see `owners`.
#[test]
fn the_live_version_has_its_entry_whatever_ends_a_commit() {
    let home = InFiles::home();
    let ledger = InFiles::open(&home);
    let publication = |record: &Record| {
        let version = version(record, "ann");
        ledger.prepare(Publication { record, version: &version, kept: 1 }).unwrap()
    };
    publication(&record("shop", 1, 5)).commit().unwrap();
    let draft = publication(&record("shop", 2, 5));
    // The record can't get its name.
    for entry in fs::read_dir(home.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "new") {
            fs::remove_file(path).unwrap();
        }
    }
    draft.commit().unwrap_err();
    assert_eq!(ledger.record("shop").unwrap().version, 1);
    let versions = InFiles::open(&home).versions("shop").unwrap();
    assert_eq!(versions[0], version(&record("shop", 1, 5), "ann"));
    publication(&record("shop", 2, 5)).commit().unwrap();
    assert_eq!((numbers(&*ledger, "shop"), ledger.record("shop").unwrap().version), (vec![2], 2));
}

#[test]
fn a_copy_of_a_record_is_no_module_and_a_purge_removes_what_can_not_be_read() {
    let home = InFiles::home();
    let ledger = InFiles::open(&home);
    publish(&*ledger, &record("shop", 2, 5));
    fs::copy(home.path().join("shop.json"), home.path().join("a copy.json")).unwrap();
    assert_eq!(names(&*ledger), ["shop"]);
    fs::write(home.path().join("shop.json"), "{").unwrap();
    assert!(names(&*ledger).is_empty() && ledger.has("shop"));
    ledger.purge().unwrap();
    assert!(!ledger.has("shop") && numbers(&*ledger, "shop").is_empty());
}

/// Earlier servers named the files of a module with a long name by the hash alone.
#[test]
fn files_under_the_hash_of_a_long_name_are_renamed() {
    use sha2::{Digest, Sha256};
    let home = InFiles::home();
    let long = "\u{fc}".repeat(60);
    let of_long = record(&long, 1, 5);
    publish(&*InFiles::open(&home), &of_long);
    let old = crate::module::sdk::hex(&Sha256::digest(long.as_bytes()));
    for dir in ["", ".versions"] {
        let dir = home.path().join(dir);
        fs::rename(dir.join(format!("%long-{old}.json")), dir.join(format!("{old}.json"))).unwrap();
    }
    let settings = home.path().join(".settings");
    fs::create_dir(&settings).unwrap();
    fs::write(settings.join(format!("{old}.json")), "{}").unwrap();
    let ledger = InFiles::open(&home);
    assert_eq!((ledger.record(&long), numbers(&*ledger, &long)), (Some(of_long), vec![1]));
    assert!(settings.join(format!("%long-{old}.json")).exists());
}

/// Only files can be broken: by a disk, or by hand.
#[test]
fn a_broken_file_costs_its_own_module_only() {
    let home = InFiles::home();
    let ledger = InFiles::open(&home);
    publish(&*ledger, &record("good", 1, 1));
    publish(&*ledger, &record("bad", 1, 2));
    fs::write(home.path().join("bad.json"), "{").unwrap();
    assert_eq!(names(&*ledger), ["good"]);
    assert!(ledger.has("bad") && ledger.record("bad").is_none());
    fs::write(home.path().join(".versions/bad.json"), "{").unwrap();
    assert!(ledger.versions("bad").unwrap_err().to_string().contains("bad.json"));
    assert_eq!(ledger.keys().unwrap().into_iter().collect::<Vec<_>>(), ["good 1 key"]);
}

/// Files of earlier servers have no domain and no number.
#[test]
fn records_from_before_domains_and_versions_are_read() {
    let home = InFiles::home();
    let mut old = serde_json::to_value(record("old", 4, 2)).unwrap();
    for field in ["domain", "version", "fields"] {
        old.as_object_mut().unwrap().remove(field);
    }
    fs::write(home.path().join("old.json"), old.to_string()).unwrap();
    let ledger = InFiles::open(&home);
    let found = ledger.record("old").unwrap();
    assert_eq!((found.domain.as_str(), found.version), (crate::domain::DEFAULT_DOMAIN, 1));
    assert!(numbers(&*ledger, "old").is_empty());
}

/// A crash between the two files of a first commit, or of a withdrawal.
#[test]
fn a_list_without_a_record_is_not_inherited() {
    let home = InFiles::home();
    let ledger = InFiles::open(&home);
    publish(&*ledger, &record("shop", 4, 5));
    fs::remove_file(home.path().join("shop.json")).unwrap();
    assert!(numbers(&*ledger, "shop").is_empty() && numbers(&*InFiles::open(&home), "shop").is_empty());
    publish(&*ledger, &record("shop", 1, 9));
    assert_eq!(numbers(&*ledger, "shop"), [1]);
}

#[test]
fn a_withdrawal_that_fails_is_told_and_can_be_repeated() {
    let home = InFiles::home();
    let ledger = InFiles::open(&home);
    publish(&*ledger, &record("shop", 1, 5));
    let list = home.path().join(".versions/shop.json");
    fs::remove_file(&list).unwrap();
    // A directory can't be removed like a file.
    fs::create_dir(&list).unwrap();
    assert!(ledger.withdraw("shop").unwrap_err().to_string().contains("shop.json"));
    assert!(!ledger.has("shop"));
    fs::remove_dir(&list).unwrap();
    ledger.withdraw("shop").unwrap();
}

#[test]
fn what_a_crash_has_left_is_removed_at_the_start() {
    let home = InFiles::home();
    publish(&*InFiles::open(&home), &record("shop", 1, 5));
    for left in ["shop.7.new", ".versions/shop.8.new"] {
        fs::write(home.path().join(left), "half").unwrap();
    }
    // Not the server's.
    fs::create_dir(home.path().join("old.new")).unwrap();
    let ledger = InFiles::open(&home);
    fs::remove_dir(home.path().join("old.new")).unwrap();
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2, "the record, and the directory of versions");
    assert_eq!(fs::read_dir(home.path().join(".versions")).unwrap().count(), 1);
    assert_eq!((names(&*ledger), numbers(&*ledger, "shop")), (vec!["shop".to_owned()], vec![1]));
}
