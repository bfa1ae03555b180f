//! Where in its source a module was: from the symbols and the debug information of its shared object.
//!
//! The file is made by the compiler, but its author can put anything into any section, so it is read as hostile: a limit
//! on its size, nothing is unpacked, a panic of a parser is caught, and what is shown is cut and printable.

use addr2line::Context;
use addr2line::gimli::{Dwarf, EndianSlice, RunTimeEndian, SectionId};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SymbolKind};
use std::io::Read;
use std::path::Path;

/// Larger files are not read.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Longer names are cut.
const NAME_CHARS_MAX: usize = 120;

/// A place in a shared object that is loaded at `base`: `function+0x12 (file.c:7)`, as much of it as is known. `None` if the
/// address is not in it.
pub(super) fn locate(path: &Path, base: u64, address: u64) -> Option<String> {
    let offset = address.checked_sub(base)?;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return None;
    }
    std::panic::catch_unwind(|| find(&bytes, offset)).ok().flatten()
}

fn find(bytes: &[u8], offset: u64) -> Option<String> {
    let file = object::File::parse(bytes).ok()?;
    let covers = |start: u64, size: u64| offset >= start && offset - start < size;
    if !file.segments().any(|segment| covers(segment.address(), segment.size())) {
        return None;
    }
    let symbols = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    let symbol = symbols.filter(|symbol| covers(symbol.address(), symbol.size())).max_by_key(ObjectSymbol::address);
    let name = symbol.as_ref().and_then(|symbol| Some((symbol.name().ok()?, symbol.address())));
    let place = match name {
        Some((name, start)) => format!("{}+{:#x}", printable(name), offset - start),
        None => format!("+{offset:#x}"),
    };
    Some(line(&file, offset).map_or_else(|| place.clone(), |line| format!("{place} ({line})")))
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
        assert_eq!(locate(&path, 0x7000_0000, 0x6fff_ffff), None);
        assert_eq!(locate(&path, 0, u64::MAX), None);
        // Whatever is in the file, the answer is an answer.
        for at in (0..bytes.len()).step_by(97) {
            let mut broken = bytes.clone();
            broken[at] ^= 0xff;
            let _ = find(&broken, inner + 1);
            let _ = find(&broken[..at], inner + 1);
        }
    }
}
