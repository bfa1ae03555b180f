//! Finds a module's position in its source, from the symbols and the debug information of its shared object.
//!
//! The compiler makes the file, but its author can put anything into any section, so the file is hostile input. Its
//! size is limited, no section is decompressed, a panic of a parser is caught, and results are shortened and printable.
//! Reading symbols costs no more than the file has bytes. Debug information can cost far more, since its parts may
//! refer to each other repeatedly. A process of its own, `cweb symbol OFFSET`, therefore reads it in a sandbox with
//! little memory and time. Without the answer of that process, the report has no line.

use crate::abi::exceptions;
use crate::domain::inspect;
use crate::domain::sandbox::{self, Policy};
use crate::net;
use addr2line::Context;
use addr2line::gimli::{Dwarf, EndianSlice, RunTimeEndian, SectionId};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SymbolKind};
use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// The name of the hidden subcommand.
pub const COMMAND: &str = "symbol";

/// Limit, in bytes, on the file; larger files are not read.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Limit, in bytes, on a name in the object; a longer one counts as missing.
const MANGLED_BYTES_MAX: usize = 4096;
/// Limit, in characters, on a name; longer names are cut.
const NAME_CHARS_MAX: usize = 120;
/// Limit on the address space of the process that reads debug information, in bytes: this program, the file, and derived
/// data.
const MEMORY_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// How much address space mimalloc reserves at a time there. By default it reserves 1 GiB, which exceeds the limit, so that
/// nothing more could be mapped, not even its own tables.
const ARENA_BYTES: &str = "32MiB";
const ARENA_RESERVE: &str = "MIMALLOC_ARENA_RESERVE";
/// Limit on the CPU time of that process.
const CPU_SECONDS_MAX: u64 = 1;
/// Limit on the wait for that process, which a busy machine may keep from its second of CPU time.
const LINE_WAIT: Duration = Duration::from_secs(10);
const OPEN_FILES_MAX: u64 = 16;
/// Limit on the offsets of one request.
const OFFSETS_MAX: usize = 64;
/// Limit on the functions at one address: the function itself, and those that it was inlined into.
const INLINED_MAX: usize = 8;

/// A position in a shared object loaded at `base`: `function+0x12 (file.c:7)`, as far as it is known. `None`: the address
/// is not in the object.
pub fn locate(path: &Path, base: u64, address: u64) -> Option<String> {
    let offset = address.checked_sub(base)?;
    let file = File::open(path).ok()?;
    let bytes = read(&file)?;
    let Symbol { name, offset: within } = std::panic::catch_unwind(|| find(&bytes, offset)).ok().flatten()?;
    let (line, demangled) = line_elsewhere(file, offset, name.as_deref());
    let place = format!("{}+{within:#x}", demangled.or(name.as_deref().map(printable)).unwrap_or_default());
    Some(line.map_or_else(|| place.clone(), |line| format!("{place} ({line})")))
}

/// The innermost function of the object among `frames`, as `src/main.c:7: copy`.
pub fn innermost(path: &Path, base: u64, frames: &[u64]) -> Option<String> {
    let named = backtrace(path, base, frames).into_iter().find(|frame| frame != IN_A_LIBRARY)?;
    let (function, place) = match named.strip_suffix(')').and_then(|named| named.rsplit_once(" (")) {
        Some((function, place)) => (function, Some(place)),
        None => (named.as_str(), None),
    };
    // The author's name of a test.
    let function = function.strip_prefix("cweb_test_of_").unwrap_or(function);
    Some(place.map_or_else(|| function.to_owned(), |place| format!("{place}: {function}")))
}

/// A frame outside of the object.
const IN_A_LIBRARY: &str = "in a library";

/// The functions of `frames`, an instruction and its return addresses, in a shared object loaded at `base`: `copy
/// (src/main.c:7)`, the innermost first, with inlined functions. An address outside of the object is `in a library`, if it
/// lies between others.
pub(super) fn backtrace(path: &Path, base: u64, frames: &[u64]) -> Vec<String> {
    let Some(file) = File::open(path).ok() else { return Vec::new() };
    let Some(bytes) = read(&file) else { return Vec::new() };
    let offsets: Vec<Option<u64>> = frames
        .iter()
        .enumerate()
        // A return address follows the call, and may belong to the next line or function.
        .map(|(at, frame)| frame.checked_sub(base)?.checked_sub(u64::from(at > 0)))
        .collect();
    let parsed = std::panic::catch_unwind(|| {
        let parsed = object::File::parse(bytes.as_slice()).ok()?;
        let is_one = |at: usize, offset: u64| has(&parsed, offset) && (at == 0 || is_call(&parsed, offset));
        let inside = offsets.iter().enumerate().map(|(at, offset)| offset.filter(|offset| is_one(at, *offset)));
        Some(inside.collect::<Vec<_>>())
    });
    let Some(inside) = parsed.ok().flatten() else { return Vec::new() };
    let wanted: Vec<u64> = inside.iter().filter_map(|offset| *offset).collect();
    let mut lines = lines_elsewhere(file, &wanted).into_iter();
    let mut found: Vec<Vec<String>> = Vec::new();
    for offset in inside {
        let Some(offset) = offset else {
            found.push(vec![IN_A_LIBRARY.to_owned()]);
            continue;
        };
        let line = lines.next().unwrap_or_default();
        let named: Vec<String> = line.split('\t').filter(|part| !part.is_empty()).map(printable).collect();
        let symbol = || find(&bytes, offset).map(|symbol| symbol.text());
        found.push(if named.is_empty() { symbol().into_iter().collect() } else { named });
    }
    // The caller of the module's first function is the server.
    let last = found.iter().rposition(|frame| frame.first().is_some_and(|name| name != IN_A_LIBRARY));
    let mut flat: Vec<String> = found.into_iter().take(last.map_or(0, |last| last + 1)).flatten().collect();
    // Addresses outside of the module are dropped, and a return address at the stack pointer may be the frame's own, too.
    flat.dedup();
    flat
}

/// Whether `last` is the last byte of a call, so that the next address can be a return address. True if that is unknown.
fn is_call(file: &object::File<'_>, last: u64) -> bool {
    if file.architecture() != object::Architecture::X86_64 {
        return true;
    }
    let bytes = file.segments().find_map(|segment| {
        let start = last.checked_sub(CALL_BYTES_MAX - 1)?;
        segment.data_range(start, CALL_BYTES_MAX).ok().flatten()
    });
    let Some(bytes) = bytes else { return true };
    // call rel32; call r/m64, whose operand has 0 to 5 bytes (Intel SDM, CALL).
    let is_near = bytes.len() >= 5 && bytes.get(bytes.len() - 5) == Some(&0xe8);
    let is_indirect = |back: usize| {
        let tail = bytes.len().checked_sub(back).and_then(|at| bytes.get(at..)).unwrap_or_default();
        matches!(tail, [0xff, modrm, ..] if modrm & 0x38 == 0x10)
    };
    is_near || (2..=7).any(is_indirect)
}

/// The bytes of the longest call.
const CALL_BYTES_MAX: u64 = 7;

/// The lines for `offsets` in `file`, found by another process.
fn lines_elsewhere(file: File, offsets: &[u64]) -> Vec<String> {
    if offsets.is_empty() {
        return Vec::new();
    }
    let arguments = offsets.iter().map(|offset| format!("+{offset}")).collect();
    elsewhere(file, arguments).map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// Whether `address` is in a shared object loaded at `base`.
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

/// A function, and the offset of an instruction in it.
struct Symbol {
    /// The name in the object; `None`: the offset is one of the object.
    name: Option<String>,
    offset: u64,
}

impl Symbol {
    fn text(&self) -> String {
        format!("{}+{:#x}", self.name.as_deref().map(printable).unwrap_or_default(), self.offset)
    }
}

fn find(bytes: &[u8], offset: u64) -> Option<Symbol> {
    let file = object::File::parse(bytes).ok()?;
    if !has(&file, offset) {
        return None;
    }
    let symbols = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    let symbol =
        symbols.filter(|symbol| within(offset, symbol.address(), symbol.size())).max_by_key(ObjectSymbol::address);
    let name = symbol.as_ref().and_then(|symbol| Some((symbol.name().ok()?, symbol.address())));
    Some(match name {
        Some((name, start)) => {
            let name = Some(name.to_owned()).filter(|name| name.len() <= MANGLED_BYTES_MAX);
            Symbol { name, offset: offset - start }
        }
        None => Symbol { name: None, offset },
    })
}

/// The file and line of an offset in `file`, and the author's name of its function `mangled`, found by another process.
fn line_elsewhere(file: File, offset: u64, mangled: Option<&str>) -> (Option<String>, Option<String>) {
    let mangled = mangled.filter(|name| name.starts_with("_Z") && !name.contains('\0'));
    let arguments = [Some(offset.to_string()), mangled.map(str::to_owned)];
    let answer = elsewhere(file, arguments.into_iter().flatten().collect()).unwrap_or_default();
    let (line, name) = answer.split_once('\t').unwrap_or((&answer, ""));
    let told = |text: &str| Some(printable(text)).filter(|text| !text.is_empty());
    (told(line), told(name))
}

/// The answer of the reading process about `file` to `arguments`.
fn elsewhere(mut file: File, arguments: Vec<String>) -> Option<String> {
    file.rewind().ok()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(COMMAND).args(arguments).env_clear().envs(sandbox::environment()).process_group(0);
    command.env(ARENA_RESERVE, ARENA_BYTES).stdin(file).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = net::keep_descriptors_from(&mut command).spawn().ok()?;
    let answer = inspect::read_report(&mut child, LINE_WAIT);
    let ended = inspect::end(&mut child, answer.is_none());
    let Some(answer) = answer else {
        tracing::debug!("debug information could not be read within {LINE_WAIT:?}");
        return None;
    };
    let status = ended.inspect_err(|error| tracing::debug!("the reader of debug information: {error}")).ok()?;
    let text = String::from_utf8_lossy(&answer);
    if !status.success() || text.is_empty() {
        tracing::debug!("debug information could not be read: its reader ended with {status}");
        return None;
    }
    Some(text.into_owned())
}

/// The main function of the child, with the shared object as standard input: `cweb symbol OFFSET [MANGLED]` prints the file
/// and line, a tab, and the function's name. `cweb symbol +OFFSET…` prints for each offset a line with its functions, the
/// innermost first, separated by tabs.
#[must_use]
pub fn main(arguments: &[OsString]) -> ExitCode {
    let texts: Vec<&str> = arguments.iter().filter_map(|text| text.to_str()).take(OFFSETS_MAX).collect();
    let offset = texts.first().and_then(|text| text.parse::<u64>().ok());
    let all: Vec<u64> = texts.iter().filter_map(|text| text.strip_prefix('+')?.parse().ok()).collect();
    let policy = Policy {
        memory_bytes_max: Some(MEMORY_BYTES_MAX),
        cpu_seconds_max: Some(CPU_SECONDS_MAX),
        file_bytes_max: Some(0),
        open_files_max: Some(OPEN_FILES_MAX),
        user: sandbox::unprivileged(),
        ..Policy::default()
    };
    let mut bytes = Vec::new();
    if std::io::stdin().take(FILE_BYTES_MAX).read_to_end(&mut bytes).is_err() {
        return ExitCode::FAILURE;
    }
    let mangled = texts.get(1).filter(|name| name.starts_with("_Z"));
    if memchr::memmem::find(&bytes, b"\0_Z").is_some() || mangled.is_some() {
        exceptions::prepare_names();
    }
    let (Some(offset), Ok(_)) = (offset, policy.apply()) else { return ExitCode::FAILURE };
    sandbox::end_with_parent();
    if !all.is_empty() {
        let Some(text) = object::File::parse(bytes.as_slice()).ok().and_then(|file| functions(&file, &all)) else {
            return ExitCode::FAILURE;
        };
        print!("{text}");
        return ExitCode::SUCCESS;
    }
    let line = object::File::parse(bytes.as_slice()).ok().and_then(|file| line(&file, offset));
    let name = mangled.and_then(|name| exceptions::demangled(name));
    print!("{}\t{}", line.unwrap_or_default(), name.unwrap_or_default());
    ExitCode::SUCCESS
}

/// The debug information of `file`.
type Debug<'a> = Context<EndianSlice<'a, RunTimeEndian>>;

/// A line for each offset with its functions.
fn functions(file: &object::File<'_>, offsets: &[u64]) -> Option<String> {
    let context = debug_information(file)?;
    let mut text = String::new();
    for offset in offsets {
        let names = functions_at(&context, *offset).unwrap_or_default();
        text.push_str(&names.join("\t"));
        text.push('\n');
    }
    Some(text)
}

fn functions_at(context: &Debug<'_>, offset: u64) -> Option<Vec<String>> {
    let mut frames = context.find_frames(offset).skip_all_loads().ok()?;
    let dir = compiled_in(context, offset);
    let mut names = Vec::new();
    while let Some(frame) = frames.next().ok().flatten().filter(|_| names.len() < INLINED_MAX) {
        let name = frame.function.as_ref().and_then(|function| function.raw_name().ok().map(Cow::into_owned));
        let place =
            frame.location.and_then(|place| Some(format!("{}:{}", author_name(place.file?, &dir), place.line?)));
        let name = name.unwrap_or_else(|| "?".to_owned());
        let name = printable(&exceptions::demangled(&name).unwrap_or(name));
        names.push(place.map_or_else(|| name.clone(), |place| format!("{name} ({})", printable(&place))));
    }
    Some(names)
}

/// The working directory of the compiler that made the code at `offset`; empty if that is not known.
fn compiled_in(context: &Debug<'_>, offset: u64) -> String {
    let unit = context.find_dwarf_and_unit(offset).skip_all_loads();
    let dir = unit.and_then(|unit| unit.comp_dir);
    dir.map(|dir| String::from_utf8_lossy(dir.slice()).into_owned()).unwrap_or_default()
}

/// The author's name of a source: its path below the compiler's working directory `dir`, or else the last part of its path.
fn author_name(file: &str, dir: &str) -> String {
    let below = file.strip_prefix(dir).and_then(|rest| rest.strip_prefix('/')).filter(|_| !dir.is_empty());
    let Some(below) = below else { return file.rsplit('/').next().unwrap_or(file).to_owned() };
    let mut parts: Vec<&str> = Vec::new();
    for part in below.split('/') {
        match part {
            "" | "." => {}
            ".." if !parts.is_empty() => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The file and line, if there is debug information.
fn line(file: &object::File<'_>, offset: u64) -> Option<String> {
    let context = debug_information(file)?;
    let location = context.find_location(offset).ok()??;
    let name = author_name(location.file?, &compiled_in(&context, offset));
    Some(format!("{}:{}", printable(&name), location.line?))
}

fn debug_information<'a>(file: &object::File<'a>) -> Option<Debug<'a>> {
    let endian = if file.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
    let load = |id: SectionId| -> Result<EndianSlice<'a, RunTimeEndian>, addr2line::gimli::Error> {
        let section = file.section_by_name(id.name());
        // The section must be uncompressed; a compressed section counts as missing.
        let data = section.and_then(|section| section.data().ok()).unwrap_or_default();
        Ok(EndianSlice::new(data, endian))
    };
    Context::from_dwarf(Dwarf::load(load).ok()?).ok()
}

/// A name, made safe for the log.
pub(super) fn printable(name: &str) -> String {
    let one = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    name.chars().take(NAME_CHARS_MAX).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn sources_have_their_authors_names() {
        for (file, dir, name) in [
            ("/d/.scratch/7/src/a.c", "/d/.scratch/7", "src/a.c"),
            ("/d/.scratch/7/src/../inc/./a.h", "/d/.scratch/7", "inc/a.h"),
            ("/d/.scratch/70/a.c", "/d/.scratch/7", "a.c"),
            ("/usr/include/x.h", "/d", "x.h"),
            ("a.c", "", "a.c"),
        ] {
            assert_eq!(author_name(file, dir), name);
        }
    }

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
        // Memory addresses differ from process to process, but the answer does not.
        for _ in 0..10 {
            let found = locate(&path, 0x7000_0000, 0x7000_0000 + inner + 1).unwrap();
            assert!(found.starts_with("inner+0x1 (place.c:"), "{found}");
        }
        assert!(covers(&path, 0x7000_0000, 0x7000_0000 + inner) && !covers(&path, 0x7000_0000, 0x6fff_ffff));
        assert_eq!(locate(&path, 0x7000_0000, 0x6fff_ffff), None);
        assert_eq!(locate(&path, 0, u64::MAX), None);
        // Any file content gives some answer.
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
