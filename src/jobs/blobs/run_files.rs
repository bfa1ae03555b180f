//! The files of one run: its inputs and its outputs.
//!
//! Each run has an output directory of its own, below `job-files`. The server creates the outputs, so a module has a descriptor
//! and no access to the directory. When the job is done, the outputs are synced to the disk and made read-only; a run that ends
//! otherwise leaves none.

use super::id::BlobId;
use super::incoming::Share;
use super::names::is_file_name;
use super::outputs::{file_charge, remove_dir};
use super::store::{BlobError, Blobs, Watched};
use rustix::fs::SeekFrom;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that one step of a copy transfers.
const COPY_BYTES: usize = 1024 * 1024;
/// Limit on the outputs of a run.
const OUTPUTS_MAX: usize = 64;

/// An output file that is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeFile {
    /// The output's name.
    pub name: String,
    /// The output's size.
    pub bytes: u64,
}

/// An output during its run.
struct Output {
    name: String,
    /// A descriptor to read the size of the output, and to truncate it.
    file: File,
}

#[derive(Default)]
struct Made {
    outputs: Vec<Output>,
    /// The run can create no more outputs.
    is_closed: bool,
    /// The directory exists.
    has_dir: bool,
}

/// The outputs of one run.
pub(super) struct Outputs {
    dir: PathBuf,
    made: Mutex<Made>,
    share: Mutex<Share>,
    /// The run must end, because its outputs exceed a limit.
    is_over: AtomicBool,
}

/// The files of one run; see the module's documentation. Dropping this removes the outputs, unless they were published.
pub(in crate::jobs) struct RunFiles {
    blobs: Blobs,
    outputs: Arc<Outputs>,
    is_published: AtomicBool,
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

impl Watched for Outputs {
    fn look(&self, file_bytes_max: u64) {
        let made = self.made();
        if made.is_closed {
            return;
        }
        let found = made.outputs.iter().filter_map(|output| output.file.metadata().ok());
        let (mut sum, mut largest) = (0_u64, 0);
        for data in found {
            sum = sum.saturating_add(file_charge(&data));
            largest = largest.max(data.len());
        }
        let fits = largest <= file_bytes_max && self.share(sum).is_ok();
        if !fits || self.is_over.load(Ordering::Acquire) {
            self.is_over.store(true, Ordering::Release);
            for output in &made.outputs {
                // A run that does not end can write until the next check only.
                let _ = output.file.set_len(0);
            }
        }
    }
}

impl Outputs {
    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn share(&self, bytes: u64) -> Result<(), BlobError> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner).grow(bytes)
    }

    fn open(&self, name: &str) -> io::Result<OwnedFd> {
        let mut made = self.made();
        if made.is_closed {
            return Err(io::Error::from_raw_os_error(libc::ECANCELED));
        }
        let path = self.dir.join(name);
        let options = OpenOptions::new().read(true).write(true).mode(0o600).to_owned();
        if !made.outputs.iter().any(|output| output.name == name) {
            if made.outputs.len() >= OUTPUTS_MAX {
                return Err(io::Error::from_raw_os_error(libc::EMFILE));
            }
            if !made.has_dir {
                DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
                made.has_dir = true;
            }
            let file = options.clone().create_new(true).open(&path)?;
            made.outputs.push(Output { name: name.to_owned(), file });
        }
        Ok(options.open(&path)?.into())
    }

    /// Syncs the files to the disk and makes them read-only.
    fn publish(&self, blobs: &Blobs) -> Result<(Vec<MadeFile>, u64), String> {
        let file_bytes_max = blobs.blob_bytes_max();
        let mut made = self.made();
        made.is_closed = true;
        let outputs = std::mem::take(&mut made.outputs);
        drop(made);
        if outputs.is_empty() {
            return Ok((Vec::new(), 0));
        }
        if self.is_over.load(Ordering::Acquire) {
            return Err(too_much());
        }
        let (mut files, mut sum) = (Vec::new(), 0);
        for Output { name, file } in outputs {
            let path = self.dir.join(&name);
            // From here on no process can open the file for writing; `keep` detects descriptors that are already open.
            let data = file.set_permissions(Permissions::from_mode(0o400)).and_then(|()| file.metadata());
            let data = data.map_err(|error| format!("the output {name} can't be kept: {error}"))?;
            if data.len() > file_bytes_max {
                return Err(format!("the output {name} is larger than {file_bytes_max} bytes (--blob-bytes-max)"));
            }
            let mut room = |copied: u64| self.share(sum + copied).map_err(|_| io::Error::other(too_much()));
            let (bytes, charge) = keep(blobs, file, &path, data.len(), &mut room)
                .map_err(|error| format!("the output {name} can't be kept: {error}"))?;
            sum += charge;
            files.push(MadeFile { name, bytes });
        }
        self.share(sum).map_err(|_| too_much())?;
        let parent = self.dir.parent().unwrap_or(&self.dir);
        let synced = [self.dir.as_path(), parent].into_iter().try_for_each(|dir| File::open(dir)?.sync_all());
        synced.map_err(|error| format!("the outputs can't be put on the disk: {error}"))?;
        Ok((files, sum))
    }
}

fn too_much() -> String {
    "the outputs exceed a limit on bytes (--blob-bytes-max, --blobs-bytes-max)".to_owned()
}

/// Syncs the file at `path`, of `bytes` bytes, to the disk. A file that a module can still write through an open descriptor is
/// copied, so that a client gets the bytes from the moment when the job was done. `room` reserves the bytes for the copy.
/// Returns the size and the bytes that the file takes on the disk.
fn keep(
    blobs: &Blobs,
    file: File,
    path: &Path,
    bytes: u64,
    room: &mut impl FnMut(u64) -> io::Result<()>,
) -> io::Result<(u64, u64)> {
    file.sync_all()?;
    drop(file);
    let mut kept = File::open(path)?;
    if blobs.is_written(kept.as_fd()) {
        let copy = path.with_file_name(".copy");
        let to = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&copy)?;
        copy_first(&kept, &to, bytes, room)?;
        to.sync_all()?;
        fs::rename(&copy, path)?;
        kept = File::open(path)?;
    }
    let data = kept.metadata()?;
    Ok((data.len(), file_charge(&data)))
}

/// Copies the first `bytes` bytes and keeps holes. The file may grow, shrink and change meanwhile.
fn copy_first(from: &File, to: &File, bytes: u64, room: &mut impl FnMut(u64) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let (mut at, mut copied) = (0, 0);
    while at < bytes {
        at = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) if data < bytes => data,
            // The rest of the file is a hole.
            Ok(_) | Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(at))?.min(bytes);
        while at < hole {
            let wanted = usize::try_from(hole - at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
            let count = from.read_at(buffer.get_mut(..wanted).unwrap_or_default(), at)?;
            if count == 0 {
                break;
            }
            copied += count as u64;
            room(copied)?;
            to.write_all_at(buffer.get(..count).unwrap_or_default(), at)?;
            at += count as u64;
        }
        // The file was truncated meanwhile: the rest is zeros.
        if at < hole {
            break;
        }
    }
    to.set_len(bytes)
}

impl RunFiles {
    /// The files of run number `attempt` of the job `uuid`.
    pub(in crate::jobs) fn new(blobs: &Blobs, uuid: &str, attempt: u32) -> Self {
        let outputs = Arc::new(Outputs {
            dir: blobs.outputs_dir().join(format!("{uuid}.{attempt}")),
            made: Mutex::default(),
            share: Mutex::new(blobs.share()),
            is_over: AtomicBool::new(false),
        });
        Self { blobs: blobs.clone(), outputs, is_published: AtomicBool::new(false) }
    }

    /// Opens an input blob for reading.
    ///
    /// # Errors
    /// An errno.
    pub(in crate::jobs) fn input(&self, id: &BlobId) -> Result<OwnedFd, i32> {
        match self.blobs.get(id) {
            Ok(found) => Ok(found.file.into()),
            Err(BlobError::Unknown(_)) => Err(libc::ENOENT),
            Err(_) => Err(libc::EIO),
        }
    }

    /// Opens the output `name` for reading and writing; the first call creates it empty.
    ///
    /// # Errors
    /// An errno.
    pub(in crate::jobs) fn output(&self, name: &str) -> Result<OwnedFd, i32> {
        if !is_file_name(name) {
            return Err(libc::EINVAL);
        }
        let opened = self.outputs.open(name).map_err(|error| errno_of(&error))?;
        let outputs = Arc::downgrade(&self.outputs);
        self.blobs.watch(outputs);
        Ok(opened)
    }

    /// Whether the outputs exceed a limit, so that the run must end.
    pub(in crate::jobs) fn is_over(&self) -> bool {
        self.outputs.is_over.load(Ordering::Acquire)
    }

    /// The error of the run, if its outputs made it fail.
    pub(in crate::jobs) fn failure(&self) -> Option<String> {
        self.is_over().then(too_much)
    }

    /// Syncs the outputs to the disk. Returns the name of their directory, and the outputs. The run can create no more outputs.
    ///
    /// # Errors
    /// Why the job can't be done, as a sentence.
    pub(in crate::jobs) fn publish(&self) -> Result<(String, Vec<MadeFile>), String> {
        let (files, bytes) = self.outputs.publish(&self.blobs)?;
        let dir = self.outputs.dir.file_name().map(|name| name.to_string_lossy().into_owned());
        if !files.is_empty() {
            self.is_published.store(true, Ordering::Release);
            // From now on the published files use the reserved bytes.
            self.outputs.share.lock().unwrap_or_else(PoisonError::into_inner).leave(bytes);
        }
        Ok((dir.unwrap_or_default(), files))
    }
}

impl Drop for RunFiles {
    fn drop(&mut self) {
        let mut made = self.outputs.made();
        made.is_closed = true;
        made.outputs.clear();
        let has_dir = made.has_dir;
        drop(made);
        if has_dir && !self.is_published.load(Ordering::Acquire) {
            remove_dir(&self.outputs.dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_first_bytes_keeps_holes_and_asks_for_room() {
        let (mut from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.write_all_at(b"head", 0).unwrap();
        from.write_all_at(b"in the midst", 64 << 20).unwrap();
        from.set_len(128 << 20).unwrap();
        let bytes = 100 << 20;
        let mut asked = 0;
        let mut room = |copied| {
            asked = copied;
            Ok(())
        };
        copy_first(&from, &to, bytes, &mut room).unwrap();
        let data = to.metadata().unwrap();
        assert_eq!(data.len(), bytes);
        assert!(asked < 1 << 20 && file_charge(&data) < 1 << 20, "{asked} {}", file_charge(&data));
        let mut midst = [0; 12];
        to.read_exact_at(&mut midst, 64 << 20).unwrap();
        assert_eq!(&midst, b"in the midst");
        // A file that was truncated meanwhile ends in zeros.
        from.set_len(2).unwrap();
        copy_first(&from, &to, 10, &mut |_| Ok(())).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 10);
        io::Seek::rewind(&mut from).unwrap();
        from.set_len(0).unwrap();
        from.write_all_at(&[7; 3 << 20], 0).unwrap();
        let refuse = |copied: u64| if copied > 1 << 20 { Err(io::Error::other("no room")) } else { Ok(()) };
        assert!(copy_first(&from, &to, 3 << 20, &mut { refuse }).is_err());
    }
}
