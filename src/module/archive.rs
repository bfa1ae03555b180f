//! Tar files of projects, plain or compressed by gzip or zstd. Clients send them, so they are read with limits; the server
//! writes them in one canonical form.

use super::project_files::{NamedFile, ProjectLimits, too_large, too_many};
use std::collections::BTreeMap;
use std::io::{self, Read};
use tar::{Archive, Builder, EntryType, Header};

/// Offset, in bytes, of the magic of a tar header, and the magic (POSIX.1-1988 `ustar`, and GNU's variant).
const MAGIC_AT: usize = 257;
const MAGIC: &[u8] = b"ustar";
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// The error for an archive without files.
const NO_FILES: &str = "the archive has no files: pack the project's directory, as in: tar c -C shop .";

/// Limit on the window of a zstd frame, as a power of two: 2^23 bytes, more than any compression level below 20 uses.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Limit, in bytes, on a tar entry's header and padding, for each file.
const ENTRY_BYTES_MAX: usize = 4096;

/// Returns the files in `bytes` with their paths; `None` if `bytes` is not an archive.
///
/// # Errors
/// A text for the author: the archive is damaged, has no files, or is too large.
pub(super) fn unpack(bytes: &[u8], limits: ProjectLimits) -> Result<Option<Vec<NamedFile>>, String> {
    // A few compressed bytes can expand to any amount, so the reader stops at a limit.
    let most = limits.files_max.saturating_mul(ENTRY_BYTES_MAX).saturating_add(limits.bytes_max);
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    if bytes.starts_with(GZIP) {
        return files(flate2::read::MultiGzDecoder::new(bytes).take(most), limits).map(Some);
    }
    if bytes.starts_with(ZSTD) {
        let mut decoder = zstd::stream::read::Decoder::new(bytes).map_err(|error| unreadable(&error))?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|error| unreadable(&error))?;
        return files(decoder.take(most), limits).map(Some);
    }
    // A tar file ends with blocks of zeros: an archive without files is nothing but zeros.
    if bytes.len() >= 512 && bytes.iter().all(|byte| *byte == 0) {
        return Err(NO_FILES.to_owned());
    }
    let is_tar = bytes.get(MAGIC_AT..).is_some_and(|rest| rest.starts_with(MAGIC));
    if is_tar { files(bytes, limits).map(Some) } else { Ok(None) }
}

fn unreadable(error: &io::Error) -> String {
    format!("the archive can't be read: {error}")
}

fn files(reader: impl Read, limits: ProjectLimits) -> Result<Vec<NamedFile>, String> {
    let mut archive = Archive::new(reader);
    let (mut found, mut bytes_sum, mut entries) = (Vec::new(), 0_usize, 0_usize);
    for entry in archive.entries().map_err(|error| unreadable(&error))? {
        let mut entry = entry.map_err(|error| unreadable(&error))?;
        entries += 1;
        if entries > limits.files_max.saturating_mul(2) {
            return Err(too_many(limits));
        }
        let path = String::from_utf8(entry.path_bytes().into_owned()).map_err(|_| "a path is not UTF-8".to_owned())?;
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Directory | EntryType::XGlobalHeader => continue,
            _ => {
                return Err(format!("{path:?} is neither a file nor a directory: links and devices are not accepted"));
            }
        }
        let mut bytes = Vec::new();
        let left = limits.bytes_max.saturating_sub(bytes_sum);
        let most = u64::try_from(left).unwrap_or(u64::MAX).saturating_add(1);
        // The header's size is not trusted: the limit applies to the bytes read.
        let read = entry.by_ref().take(most).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
        if read > left {
            return Err(too_large(limits));
        }
        bytes_sum = bytes_sum.saturating_add(read);
        found.push((path, bytes));
        if found.len() > limits.files_max {
            return Err(too_many(limits));
        }
    }
    if found.is_empty() {
        return Err(NO_FILES.to_owned());
    }
    Ok(found)
}

/// The same archive as a zstd frame, which [`unpack`] reads.
pub(super) fn compressed(archive: &[u8]) -> io::Result<Vec<u8>> {
    zstd::encode_all(archive, zstd::DEFAULT_COMPRESSION_LEVEL)
}

/// Packs `files` into a tar file. The same files always give the same bytes.
pub(super) fn pack(files: &BTreeMap<String, Vec<u8>>) -> io::Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_entry_type(EntryType::Regular);
        builder.append_data(&mut header, path, bytes.as_slice())?;
    }
    builder.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LIMITS: ProjectLimits = ProjectLimits { files_max: 3, bytes_max: 1000 };

    /// A tar file with the given entries; the paths are not checked.
    fn tar(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (path, kind, bytes) in entries {
            let mut header = Header::new_ustar();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_size(bytes.len() as u64);
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn archives_of_three_kinds_are_read() {
        let plain = tar(&[("src/", EntryType::Directory, b""), ("src/a.c", EntryType::Regular, b"int x;")]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
        for bytes in [plain, gzip.finish().unwrap(), zstd] {
            assert_eq!(unpack(&bytes, LIMITS).unwrap().unwrap(), [("src/a.c".to_owned(), b"int x;".to_vec())]);
        }
        assert_eq!(unpack(b"#include <cweb.h>", LIMITS), Ok(None));
    }

    #[test]
    fn hostile_archives_are_refused() {
        for kind in [EntryType::Symlink, EntryType::Link, EntryType::Char, EntryType::Block, EntryType::Fifo] {
            assert!(unpack(&tar(&[("x", kind, b"")]), LIMITS).unwrap_err().contains("links and devices"), "{kind:?}");
        }
        assert!(unpack(&tar(&[("x", EntryType::Regular, &[0; 1001])]), LIMITS).unwrap_err().contains("1000 bytes"));
        let four = ["a", "b", "c", "d"].map(|name| (name, EntryType::Regular, b"".as_slice()));
        assert!(unpack(&tar(&four), LIMITS).unwrap_err().contains("3 files"));
        let mut cut = tar(&[("x", EntryType::Regular, &[1; 900])]);
        cut.truncate(700);
        assert!(unpack(&cut, LIMITS).unwrap_err().contains("can't be read"));
        assert!(unpack(&[0x1f, 0x8b, 1, 2], LIMITS).is_err());
        assert!(unpack(&[0x28, 0xb5, 0x2f, 0xfd, 1], LIMITS).is_err());
        // 64 MiB of zeros, compressed to some kilobytes.
        let large = vec![0_u8; 64 * 1024 * 1024];
        let bomb = zstd::encode_all(tar(&[("x", EntryType::Regular, &large)]).as_slice(), 3).unwrap();
        assert!(unpack(&bomb, LIMITS).unwrap_err().contains("1000 bytes"));
    }

    #[test]
    fn the_packed_form_is_one() {
        let files = BTreeMap::from([("b.c".to_owned(), vec![1]), ("a/x".to_owned(), vec![])]);
        let packed = pack(&files).unwrap();
        assert_eq!(packed, pack(&files).unwrap());
        let found: BTreeMap<_, _> = unpack(&packed, LIMITS).unwrap().unwrap().into_iter().collect();
        assert_eq!(found, files);
    }
}
