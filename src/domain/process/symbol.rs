//! Where in its source a module was: from the symbols and the debug information of its shared object.
//!
//! The file is made by the compiler, but its author can put anything into any section, so it is read as hostile: a limit
//! on its size, nothing is unpacked, a panic of a parser is caught, and what is shown is cut and printable. Symbols cost
//! no more than the file has bytes. Debug information can cost far more, since its parts may refer to one another again
//! and again, so it is read by a process of its own, `cweb symbol OFFSET`, in a sandbox with little memory and time; without
//! its answer there is no line.

use crate::domain::inspect;
use crate::domain::sandbox::{self, Policy};
use crate::net;
use addr2line::Context;
use addr2line::gimli::{Dwarf, EndianSlice, RunTimeEndian, SectionId};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SymbolKind};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// The name of the hidden subcommand.
pub const COMMAND: &str = "symbol";

/// Larger files are not read.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Longer names are cut.
const NAME_CHARS_MAX: usize = 120;
/// Address space of the process that reads debug information: this program, the file, and what follows from it.
const MEMORY_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Its time of computing,
const CPU_SECONDS_MAX: u64 = 1;
/// and how long it is waited for.
const LINE_WAIT: Duration = Duration::from_secs(2);
const OPEN_FILES_MAX: u64 = 16;

/// A place in a shared object that is loaded at `base`: `function+0x12 (file.c:7)`, as much of it as is known. `None` if the
/// address is not in it.
pub fn locate(path: &Path, base: u64, address: u64) -> Option<String> {
    let offset = address.checked_sub(base)?;
    let file = File::open(path).ok()?;
    let bytes = read(&file)?;
    let place = std::panic::catch_unwind(|| find(&bytes, offset)).ok().flatten()?;
    Some(line_elsewhere(file, offset).map_or_else(|| place.clone(), |line| format!("{place} ({line})")))
}

/// Whether `address` is in a shared object that is loaded at `base`.
pub(super) fn covers(path: &Path, base: u64, address: u64) -> bool {
    let Some(offset) = address.checked_sub(base) else { return false };
    let bytes = File::open(path).ok().and_then(|file| read(&file)).unwrap_or_default();
    std::panic::catch_unwind(|| object::File::parse(bytes.as_slice()).is_ok_and(|file| has(&file, offset)))
        .unwrap_or(false)
}

fn read(file: &File) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= FILE_BYTES_MAX).then_some(bytes)
}

fn within(offset: u64, start: u64, size: u64) -> bool {
    offset >= start && offset - start < size
}

fn has(file: &object::File<'_>, offset: u64) -> bool {
    file.segments().any(|segment| within(offset, segment.address(), segment.size()))
}

fn find(bytes: &[u8], offset: u64) -> Option<String> {
    let file = object::File::parse(bytes).ok()?;
    if !has(&file, offset) {
        return None;
    }
    let symbols = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    let symbol =
        symbols.filter(|symbol| within(offset, symbol.address(), symbol.size())).max_by_key(ObjectSymbol::address);
    let name = symbol.as_ref().and_then(|symbol| Some((symbol.name().ok()?, symbol.address())));
    Some(match name {
        Some((name, start)) => format!("{}+{:#x}", printable(name), offset - start),
        None => format!("+{offset:#x}"),
    })
}

/// The file and line of an offset in `file`, as the process for it finds them.
fn line_elsewhere(mut file: File, offset: u64) -> Option<String> {
    file.rewind().ok()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(COMMAND).arg(offset.to_string()).env_clear().envs(sandbox::environment()).process_group(0);
    command.stdin(file).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = net::keep_descriptors_from(&mut command).spawn().ok()?;
    let answer = inspect::read_report(&mut child, LINE_WAIT);
    let ended = inspect::end(&mut child, answer.is_none());
    let (answer, status) = (answer?, ended.ok()?);
    let line = String::from_utf8_lossy(&answer);
    (status.success() && !line.is_empty()).then(|| printable(&line))
}

/// The child's main: `cweb symbol OFFSET`, with the shared object as standard input. Prints the file and line.
#[must_use]
pub fn main(arguments: &[OsString]) -> ExitCode {
    let offset = arguments.first().and_then(|text| text.to_str()?.parse::<u64>().ok());
    let policy = Policy {
        memory_bytes_max: Some(MEMORY_BYTES_MAX),
        cpu_seconds_max: Some(CPU_SECONDS_MAX),
        file_bytes_max: Some(0),
        open_files_max: Some(OPEN_FILES_MAX),
        user: sandbox::unprivileged(),
        ..Policy::default()
    };
    let (Some(offset), Ok(_)) = (offset, policy.apply()) else { return ExitCode::FAILURE };
    sandbox::end_with_parent();
    let mut bytes = Vec::new();
    if std::io::stdin().take(FILE_BYTES_MAX).read_to_end(&mut bytes).is_err() {
        return ExitCode::FAILURE;
    }
    let Some(line) = object::File::parse(bytes.as_slice()).ok().and_then(|file| line(&file, offset)) else {
        return ExitCode::FAILURE;
    };
    print!("{line}");
    ExitCode::SUCCESS
}

/// The file and line, if there is debug information.
fn line(file: &object::File<'_>, offset: u64) -> Option<String> {
    let endian = if file.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
    let load = |id: SectionId| -> Result<EndianSlice<'_, RunTimeEndian>, addr2line::gimli::Error> {
        let section = file.section_by_name(id.name());
        // As it is: a section that is compressed is no debug information.
        let data = section.and_then(|section| section.data().ok()).unwrap_or_default();
        Ok(EndianSlice::new(data, endian))
    };
    let context = Context::from_dwarf(Dwarf::load(load).ok()?).ok()?;
    let location = context.find_location(offset).ok()??;
    let name = location.file?.rsplit('/').next()?;
    Some(format!("{}:{}", printable(name), location.line?))
}

/// A name for the log.
pub(super) fn printable(name: &str) -> String {
    let one = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    name.chars().take(NAME_CHARS_MAX).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_place_in_a_shared_object_has_function_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let source = "int outer;\nstatic __attribute__((noinline)) void inner(int *p) {\n  *p = 1;\n}\n\
                      void seen(void) { inner(&outer); }\n";
        std::fs::write(dir.path().join("place.c"), source).unwrap();
        let arguments = ["-g", "-O0", "-fPIC", "-shared", "place.c", "-o", "place.so"];
        assert!(Command::new("cc").args(arguments).current_dir(dir.path()).status().unwrap().success());
        let path = dir.path().join("place.so");
        let bytes = std::fs::read(&path).unwrap();
        let file = object::File::parse(bytes.as_slice()).unwrap();
        let inner = file.symbols().find(|symbol| symbol.name() == Ok("inner")).unwrap().address();
        let found = locate(&path, 0x7000_0000, 0x7000_0000 + inner + 1).unwrap();
        assert!(found.starts_with("inner+0x1 (place.c:"), "{found}");
        assert!(covers(&path, 0x7000_0000, 0x7000_0000 + inner) && !covers(&path, 0x7000_0000, 0x6fff_ffff));
        assert_eq!(locate(&path, 0x7000_0000, 0x6fff_ffff), None);
        assert_eq!(locate(&path, 0, u64::MAX), None);
        // Whatever is in the file, the answer is an answer.
        for at in (0..bytes.len()).step_by(97) {
            let mut broken = bytes.clone();
            broken[at] ^= 0xff;
            for bytes in [broken.as_slice(), &broken[..at]] {
                let _ = find(bytes, inner + 1);
                let _ = object::File::parse(bytes).map(|file| line(&file, inner + 1));
            }
        }
    }
}
