//! Module tables without a control plane.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A property that does not hold is a panic here.

use super::generation::{Generation, Serving};
use super::matcher::Cache;
use super::table::{Published, Table};
use crate::domain::Instance;
use std::path::PathBuf;
use std::sync::Arc;

/// A table of `instances`, which stay in service.
pub(crate) fn table(instances: Vec<Arc<dyn Instance>>) -> Table {
    let publish = |(id, instance): (u64, Arc<dyn Instance>)| {
        let manifest = Arc::new(instance.manifest().clone());
        // There is no reaper, so an ended generation is never unloaded.
        let (reaper, _) = crossbeam::channel::unbounded();
        let generation = Generation::new(id, String::new(), instance, PathBuf::new(), reaper);
        Published::new(manifest, String::new(), String::new(), Some(Serving::start(Arc::new(generation)).0))
    };
    Table::build((1..).zip(instances).map(publish).collect(), &mut Cache::default()).expect("a small table")
}
