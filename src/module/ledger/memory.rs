//! A ledger in memory: the second implementation, for the tests.

use super::publication::{Draft, Ledger, Publication};
use crate::module::module_record::Record;
use crate::module::versions::{self, Version};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

type Modules = BTreeMap<String, (Record, Vec<Version>)>;

/// The modules, which outlive an open ledger.
pub(super) type Memory = Arc<Mutex<Modules>>;

pub(super) struct MemoryLedger(pub(super) Memory);

impl MemoryLedger {
    fn modules(&self) -> MutexGuard<'_, Modules> {
        self.0.lock().unwrap()
    }
}

impl Ledger for MemoryLedger {
    fn published(&self) -> io::Result<Vec<Record>> {
        let mut records: Vec<Record> = self.modules().values().map(|(record, _)| record.clone()).collect();
        records.sort_by_key(|record| record.deployed_ms);
        Ok(records)
    }

    fn record(&self, name: &str) -> Option<Record> {
        self.modules().get(name).map(|(record, _)| record.clone())
    }

    fn has(&self, name: &str) -> bool {
        self.modules().contains_key(name)
    }

    fn versions(&self, name: &str) -> io::Result<Vec<Version>> {
        Ok(self.modules().get(name).map(|(_, versions)| versions.clone()).unwrap_or_default())
    }

    fn keys(&self) -> io::Result<HashSet<String>> {
        let keys = |(record, versions): &(Record, Vec<Version>)| {
            let of_versions = versions.iter().map(|version| version.key.clone());
            of_versions.chain([record.key.clone()]).collect::<Vec<_>>()
        };
        Ok(self.modules().values().flat_map(keys).collect())
    }

    fn prepare(&self, publication: Publication<'_>) -> io::Result<Box<dyn Draft>> {
        let Publication { record, version, kept } = publication;
        Ok(Box::new(MemoryDraft {
            memory: Arc::clone(&self.0),
            record: record.clone(),
            version: version.clone(),
            kept,
        }))
    }

    fn withdraw(&self, name: &str) -> io::Result<()> {
        self.modules().remove(name);
        Ok(())
    }

    fn purge(&self) -> io::Result<()> {
        self.modules().clear();
        Ok(())
    }
}

struct MemoryDraft {
    memory: Memory,
    record: Record,
    version: Version,
    kept: usize,
}

impl Draft for MemoryDraft {
    fn commit(self: Box<Self>) -> io::Result<()> {
        let mut modules = self.memory.lock().unwrap();
        let (_, mut versions) = modules.remove(&self.record.name).unwrap_or((self.record.clone(), Vec::new()));
        versions::add(&mut versions, self.version, self.kept, self.record.version);
        modules.insert(self.record.name.clone(), (self.record, versions));
        Ok(())
    }
}
