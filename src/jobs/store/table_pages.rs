//! Pages of the tables, for modules that query them by SQL from a process without the file: rows by id.
//!
//! A page is one short read of bounded size, so no reader keeps the engine from tidying up. Two pages may show the tables at two
//! different moments.

use super::{Read, Reader, StoreError, TableQuery};
use std::path::{Path, PathBuf};

/// Reads for one process with modules.
pub struct Tables {
    path: PathBuf,
    reader: Option<Reader>,
}

impl Tables {
    /// Reads the jobs stored at `path`; the store is opened for the first page.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), reader: None }
    }

    /// The first matching rows: `m` if there may be more, or `e`, followed by the values, row by row: `n` for NULL, `u` for a
    /// column that is not read, `i…;` a number, `tN:` a text of N bytes. With `modules`, only rows of their jobs.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn page(&mut self, query: &TableQuery, modules: Option<&[String]>) -> Result<String, StoreError> {
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => Reader::open(&self.path)?,
        };
        self.reader.insert(reader).page(query, modules)
    }
}
