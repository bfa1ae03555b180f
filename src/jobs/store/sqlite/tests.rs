//! Tests of this engine alone: its files, its faults, its queries. `store::tests` runs the contract of all engines.

mod faults;
mod opening;
mod queries;

use crate::jobs::store::tests::*;
use crate::jobs::store::writer::Published;
use crate::jobs::store::*;
use rusqlite::Connection;
use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use tempfile::TempDir;

impl Subject for Store {
    type Home = TempDir;
    type Reader = Reader;
    type Jam = Connection;

    fn home() -> TempDir {
        tempfile::tempdir().unwrap()
    }

    fn open_at(home: &TempDir, published: Published) -> Self {
        // The tests don't cover a loss of power, and waiting for the disk would make them slow.
        let config = StoreConfig { durability: Durability::Normal, ..StoreConfig::new(home.path().join("cweb.db")) };
        Self::open(config, published).unwrap()
    }

    fn writer(&self) -> Writer {
        Self::writer(self)
    }

    fn stats(&self) -> Arc<StoreStats> {
        Self::stats(self)
    }

    fn read(&self) -> Reader {
        self.reader().unwrap()
    }

    fn poison(&self, home: &TempDir) {
        let other = Connection::open(home.path().join("cweb.db")).unwrap();
        other.execute_batch(POISON).unwrap();
    }

    fn jam(&self, home: &TempDir) -> Connection {
        self.writer().hook(|inside| execute(inside, "PRAGMA busy_timeout = 1"));
        let other = Connection::open(home.path().join("cweb.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        other
    }
}

/// Makes inserts of certain events fail.
const POISON: &str = "CREATE TRIGGER poison BEFORE INSERT ON job_events \
     WHEN new.type = 'poison' OR new.data_json LIKE '%poison%' \
     BEGIN SELECT RAISE(ABORT, 'poisoned'); END";

fn execute(inside: &dyn Any, sql: &str) {
    inside.downcast_ref::<Connection>().expect("this engine's inside").execute_batch(sql).unwrap();
}

/// Runs SQL on the writing connection.
fn on_writer(fixture: &Fixture<Store>, sql: &'static str) {
    let (done, ran) = mpsc::channel();
    fixture.writer().hook(move |inside| {
        execute(inside, sql);
        done.send(()).unwrap();
    });
    ran.recv().unwrap();
}

fn database(dir: &Path) -> PathBuf {
    dir.join("cweb.db")
}

fn path(fixture: &Fixture<Store>) -> PathBuf {
    database(fixture.home.path())
}

fn open(path: &Path, log: &Log) -> Result<Store, OpenError> {
    let log = Arc::clone(log);
    let config = StoreConfig { durability: Durability::Normal, ..StoreConfig::new(path.to_owned()) };
    Store::open(config, Box::new(move |events| log.lock().unwrap().extend_from_slice(events)))
}
