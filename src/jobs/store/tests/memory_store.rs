//! An open store on the engine in memory, and its reading side.

use super::memory::{Disk, Jam, Memory, State, StoredJob};
use super::*;
use crate::jobs::blobs::MadeFile;
use std::collections::HashSet;
use std::sync::atomic::Ordering;

/// An open store on this engine.
pub(super) struct MemoryStore {
    thread: thread::WriterThread,
    disk: Disk,
}

impl Subject for MemoryStore {
    type Home = Disk;
    type Reader = MemoryReader;
    type Jam = Jam;

    fn home() -> Disk {
        Disk::default()
    }

    fn open_at(home: &Disk, published: Published) -> Self {
        let limits = StoreConfig::new(PathBuf::new()).limits();
        let thread = thread::WriterThread::start(Memory(home.clone()), &limits, published);
        Self { thread: thread.ok().expect("the writer's thread starts"), disk: home.clone() }
    }

    fn writer(&self) -> Writer {
        self.thread.writer()
    }

    fn stats(&self) -> Arc<StoreStats> {
        self.thread.stats()
    }

    fn read(&self) -> Self::Reader {
        MemoryReader(self.disk.clone())
    }

    /// This engine refuses the word always.
    fn poison(&self, _: &Disk) {}

    fn jam(&self, home: &Disk) -> Jam {
        home.is_jammed.store(true, Ordering::SeqCst);
        Jam(Arc::clone(&home.is_jammed))
    }
}

pub(super) struct MemoryReader(pub(super) Disk);

impl State {
    pub(super) fn by_uuid(&self, uuid: &str) -> Option<&StoredJob> {
        self.jobs.values().find(|job| job.row.uuid == uuid)
    }

    /// The row of a job, with the dependencies that are still stored.
    pub(super) fn row(&self, job: &StoredJob) -> JobRow {
        let needed = job.needs.iter().filter_map(|need| self.jobs.get(need));
        JobRow { depends_on: needed.map(|needed| needed.row.uuid.clone()).collect(), ..job.row.clone() }
    }

    fn listed(&self, job: &StoredJob) -> JobRow {
        JobRow { payload: String::new(), ..self.row(job) }
    }
}

/// The items up to the one that brings the sum of their bytes to `bytes_max`.
fn up_to<T>(found: impl Iterator<Item = T>, limit: u32, bytes_max: usize, bytes: impl Fn(&T) -> usize) -> Vec<T> {
    let (mut taken, mut sum) = (Vec::new(), 0);
    for item in found.take(limit as usize) {
        sum += bytes(&item);
        taken.push(item);
        if sum >= bytes_max {
            break;
        }
    }
    taken
}

/// A value of a row as modules read it; `None` is a column that the query does not read.
enum Cell {
    Unread,
    Null,
    Number(i64),
    Text(String),
}

impl Cell {
    fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    fn maybe(text: Option<&String>) -> Self {
        text.map_or(Self::Null, |text| Self::text(text))
    }

    fn fits(&self, key: &Key) -> bool {
        match (self, key) {
            (Self::Number(number), Key::Number(key)) => number == key,
            (Self::Text(text), Key::Text(key)) => text == key,
            _ => false,
        }
    }

    fn append(&self, page: &mut String) {
        page.push_str(&match self {
            Self::Unread => "u".to_owned(),
            Self::Null => "n".to_owned(),
            Self::Number(number) => format!("i{number};"),
            Self::Text(text) => format!("t{}:{text}", text.len()),
        });
    }
}

fn job_cells(row: &JobRow) -> Vec<Cell> {
    vec![
        Cell::Number(row.id),
        Cell::text(&row.uuid),
        Cell::text(&row.module),
        Cell::text(&row.job),
        Cell::text(row.state.as_str()),
        Cell::text(&row.module_hash),
        Cell::Number(row.created_at_ms),
        Cell::Number(row.updated_at_ms),
        Cell::text(&row.payload),
        Cell::maybe(row.result.as_ref()),
        Cell::maybe(row.error.as_ref()),
        Cell::Number(i64::from(row.attempt)),
        Cell::Number(i64::from(row.max_attempts)),
        Cell::Number(row.backoff_ms as i64),
        Cell::Number(row.timeout_ms as i64),
        Cell::Number(row.run_at_ms),
        Cell::Number(i64::from(row.priority)),
        Cell::maybe(row.unique_key.as_ref()),
    ]
}

fn event_cells(event: &JobEvent) -> Vec<Cell> {
    let (kind, data) = (Cell::text(&event.kind), Cell::text(&event.data));
    let numbers = [event.id, event.job_id, event.ts_ms].map(Cell::Number);
    numbers.into_iter().chain([kind, data, Cell::Number(i64::from(event.is_final))]).collect()
}

impl MemoryReader {
    fn see<T>(&self, see: impl FnOnce(&State) -> T) -> Result<T, StoreError> {
        Ok(see(&self.0.state.lock().unwrap()))
    }
}

impl Read for MemoryReader {
    fn job(&mut self, uuid: &str) -> Result<Option<JobRow>, StoreError> {
        self.see(|state| state.by_uuid(uuid).map(|job| state.row(job)))
    }

    fn jobs(&mut self, filter: &JobFilter, bytes_max: usize) -> Result<Vec<JobRow>, StoreError> {
        self.see(|state| {
            let before = match &filter.before {
                None => i64::MAX,
                Some(uuid) => state.by_uuid(uuid).map_or(0, |job| job.row.id),
            };
            let fits = |row: &JobRow| {
                row.id < before
                    && filter.state.is_none_or(|state| row.state == state)
                    && (filter.among.is_empty() || filter.among.contains(&row.state))
                    && filter.module.as_ref().is_none_or(|module| row.module == *module)
                    && filter.job.as_ref().is_none_or(|job| row.job == *job)
            };
            let found = state.jobs.values().rev().map(|job| state.listed(job)).filter(fits);
            let bytes = |row: &JobRow| [&row.result, &row.error].into_iter().flatten().map(String::len).sum();
            up_to(found, filter.limit, bytes_max, bytes)
        })
    }

    fn id(&mut self, uuid: &str) -> Result<Option<i64>, StoreError> {
        self.see(|state| state.by_uuid(uuid).map(|job| job.row.id))
    }

    fn payload(&mut self, job_id: i64) -> Result<Option<String>, StoreError> {
        self.see(|state| state.jobs.get(&job_id).map(|job| job.row.payload.clone()))
    }

    fn state(&mut self, job_id: i64) -> Result<Option<JobState>, StoreError> {
        self.see(|state| state.jobs.get(&job_id).map(|job| job.row.state))
    }

    fn events(&mut self, job_id: i64, after: i64, limit: u32, bytes_max: usize) -> Result<Vec<JobEvent>, StoreError> {
        self.see(|state| {
            let found = state.events.iter().filter(|event| event.job_id == job_id && event.id > after).cloned();
            up_to(found, limit, bytes_max, |event| event.data.len())
        })
    }

    fn event_count(&mut self, job_id: i64) -> Result<u64, StoreError> {
        self.see(|state| state.events.iter().filter(|event| event.job_id == job_id).count() as u64)
    }

    fn feed(&mut self, filter: &FeedFilter, after: i64, limit: u32, bytes_max: usize) -> Result<FeedPage, StoreError> {
        self.see(|state| {
            let last = state.last_event;
            if after < 0 || after >= last {
                return FeedPage { events: Vec::new(), read_to: after.max(last), at_end: true };
            }
            let found = state.events.iter().filter(|event| event.id > after).map(|event| {
                let row = &state.jobs[&event.job_id].row;
                (event.clone(), row.module.clone(), row.job.clone())
            });
            let fits = |(event, module, _): &(JobEvent, String, String)| {
                filter.module.as_ref().is_none_or(|wanted| module == wanted)
                    && filter.state.is_none_or(|state| event.is_final && *event.kind == *state.as_str())
            };
            let bytes = |found: &(JobEvent, String, String)| found.0.data.len();
            let events = up_to(found.filter(fits), limit, bytes_max, bytes);
            let is_cut = events.len() >= limit as usize || events.iter().map(bytes).sum::<usize>() >= bytes_max;
            let read_to = if is_cut { events.last().map_or(after, |(event, ..)| event.id) } else { last };
            FeedPage { events, read_to, at_end: !is_cut }
        })
    }

    fn unfinished(&mut self, after_id: i64, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        self.see(|state| {
            let open = state.jobs.values().filter(|job| job.row.id > after_id && !job.row.state.is_final());
            open.take(limit as usize).map(|job| state.listed(job)).collect()
        })
    }

    fn paused(&mut self) -> Result<Vec<JobKind>, StoreError> {
        self.see(|state| state.paused.iter().cloned().collect())
    }

    fn schedules(&mut self) -> Result<Vec<ScheduleRow>, StoreError> {
        self.see(|state| state.schedules.values().cloned().collect())
    }

    fn checkpoint(&mut self, job_id: i64) -> Result<Option<Vec<u8>>, StoreError> {
        self.see(|state| state.jobs.get(&job_id)?.checkpoint.clone())
    }

    fn files_given(&mut self, job_id: i64) -> Result<Vec<(String, String)>, StoreError> {
        self.see(|state| {
            let given = state.jobs.get(&job_id).map(|job| job.given.clone());
            given.into_iter().flatten().collect()
        })
    }

    fn files(&mut self, uuid: &str) -> Result<Option<JobFiles>, StoreError> {
        self.see(|state| {
            let job = state.by_uuid(uuid)?;
            let made = job.made.iter().map(|(name, (_, bytes))| MadeFile { name: name.clone(), bytes: *bytes });
            let made = made.filter(|_| job.row.state == JobState::Done).collect();
            Some(JobFiles { state: job.row.state, given: job.given.clone().into_iter().collect(), made })
        })
    }

    fn output_dir(&mut self, uuid: &str, name: &str) -> Result<Option<String>, StoreError> {
        self.see(|state| {
            let job = state.by_uuid(uuid).filter(|job| job.row.state == JobState::Done)?;
            job.made.get(name).map(|(dir, _)| dir.clone())
        })
    }

    fn is_blob_needed(&mut self, blob: &str) -> Result<bool, StoreError> {
        let needs = |job: &StoredJob| job.given.values().any(|given| given == blob) || job.event_blobs.contains(blob);
        self.see(|state| state.jobs.values().any(needs))
    }

    fn output_dirs(&mut self) -> Result<HashSet<String>, StoreError> {
        self.see(|state| state.jobs.values().flat_map(|job| job.made.values()).map(|(dir, _)| dir.clone()).collect())
    }

    fn gone_dirs(&mut self, limit: u32) -> Result<Vec<String>, StoreError> {
        self.see(|state| state.gone_dirs.iter().take(limit as usize).cloned().collect())
    }

    /// The pages of this engine have no limit.
    fn page(&mut self, query: &TableQuery, modules: Option<&[String]>) -> Result<String, StoreError> {
        self.see(|state| {
            let is_allowed = |row: &JobRow| modules.is_none_or(|modules| modules.contains(&row.module));
            let mut rows: Vec<(i64, Vec<Cell>)> = match query.table {
                Table::Jobs => {
                    let rows = state.jobs.values().map(|job| &job.row).filter(|row| is_allowed(row));
                    rows.map(|row| (row.id, job_cells(row))).collect()
                }
                Table::Events => {
                    let events = state.events.iter().filter(|event| is_allowed(&state.jobs[&event.job_id].row));
                    events.map(|event| (event.id, event_cells(event))).collect()
                }
            };
            rows.retain(|(id, cells)| {
                let fits = query.equal.as_ref().is_none_or(|(at, key)| cells[*at].fits(key));
                fits && *id > query.after && *id < query.before
            });
            if query.descending {
                rows.reverse();
            }
            let mut page = "e".to_owned();
            for (_, cells) in rows {
                for (at, cell) in cells.into_iter().enumerate() {
                    let is_read = at == 0 || query.columns >> at & 1 == 1;
                    if is_read { cell } else { Cell::Unread }.append(&mut page);
                }
            }
            page
        })
    }
}
