//! Pages of the tables, for modules that query them by SQL: rows by id.
//!
//! A page is one short read of bounded size, so no module keeps the engine from tidying up. Two pages may show the tables at two
//! different moments.

use super::{Read, StoreError, TableQuery};
use std::sync::{Mutex, PoisonError};

/// Opens a new reader of one store.
pub type OpenReader = Box<dyn Fn() -> Result<Box<dyn Read>, StoreError> + Send + Sync>;

/// Limit on the readers that stay open between two pages.
const IDLE_READERS_MAX: usize = 8;

/// The tables of one store. Any number of threads may read; each reads on its own thread, with a reader that no other thread
/// has meanwhile, so no page waits for another.
pub struct Tables {
    open: OpenReader,
    idle: Mutex<Vec<Box<dyn Read>>>,
}

impl Tables {
    /// Reads what the readers that `open` opens can read. The first reader is opened for the first page.
    #[must_use]
    pub fn new(open: OpenReader) -> Self {
        Self { open, idle: Mutex::default() }
    }

    /// The first matching rows: `m` if there may be more, or `e`, followed by the values, row by row: `n` for NULL, `u` for a
    /// column that is not read, `i…;` a number, `tN:` a text of N bytes. With `modules`, only rows of their jobs.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn page(&self, query: &TableQuery, modules: Option<&[String]>) -> Result<String, StoreError> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let idle_reader = idle().pop();
        let mut reader = idle_reader.map_or_else(|| (self.open)(), Ok)?;
        // A reader that has failed is closed: the next page opens another one.
        let page = reader.page(query, modules)?;
        let mut idle = idle();
        if idle.len() < IDLE_READERS_MAX {
            idle.push(reader);
        }
        Ok(page)
    }
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tables").finish_non_exhaustive()
    }
}
