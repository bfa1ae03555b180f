//! Predicts how the dynamic loader would treat a shared object, from the headers that the loader itself uses: program
//! headers and the dynamic section. Section headers may contain anything, so no code here reads them.
//!
//! The file is untrusted: every offset, size and count is checked against the file before it is used, and counts have
//! limits. Nothing of the file is executed.

use std::ops::Range;

/// The first bytes of an ELF file.
pub const MAGIC: &[u8; 4] = b"\x7fELF";

/// Sizes, in bytes, of the parts of a 64-bit file.
const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: u64 = 56;
const DYNAMIC_BYTES: usize = 16;
const SYMBOL_BYTES: u64 = 24;

/// Limits on program headers, entries of the dynamic section, and symbols.
const SEGMENTS_MAX: u64 = 128;
const DYNAMIC_MAX: usize = 4096;
const SYMBOLS_MAX: u64 = 200_000;
/// Limits on libraries and on the length of a library's name, which is at most one path component (bytes).
const NEEDED_MAX: usize = 64;
const NEEDED_BYTES_MAX: usize = 255;
/// Limits, in bytes, on one name and on the names of all symbols together: many symbols may share one long text.
const NAME_BYTES_MAX: usize = 16 * 1024;
const NAMES_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Limits, in bytes, on the memory of all segments, and on the thread-local variables of each thread.
const MEMORY_BYTES_MAX: u64 = 1024 * 1024 * 1024;
const THREAD_BYTES_MAX: u64 = 1024 * 1024;
/// The loader maps whole pages.
const PAGE_BYTES: u64 = 4096;

const TYPE_SHARED: u16 = 3;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_DYNAMIC: u32 = 2;
const SEGMENT_TLS: u32 = 7;
const SEGMENT_STACK: u32 = 0x6474_e551;
const EXECUTABLE: u32 = 1;
const WRITABLE: u32 = 2;

const NEEDED: u64 = 1;
const HASH: u64 = 4;
const STRINGS: u64 = 5;
const SYMBOLS: u64 = 6;
const STRINGS_BYTES: u64 = 10;
const TEXT_RELOCATIONS: u64 = 22;
const FLAGS: u64 = 30;
const GNU_HASH: u64 = 0x6fff_fef5;
const FLAGS_1: u64 = 0x6fff_fffb;
/// Entries that make the loader search other directories, or load other libraries.
const SEARCHING: [(u64, &str); 7] = [
    (15, "DT_RPATH"),
    (29, "DT_RUNPATH"),
    (0x6fff_fefa, "DT_CONFIG"),
    (0x6fff_fefb, "DT_DEPAUDIT"),
    (0x6fff_fefc, "DT_AUDIT"),
    (0x7fff_fffd, "DT_AUXILIARY"),
    (0x7fff_ffff, "DT_FILTER"),
];
/// Bits of `DT_FLAGS`, and of `DT_FLAGS_1`.
const FLAG_TEXT_RELOCATIONS: u64 = 4;
const FLAG_STATIC_TLS: u64 = 0x10;
const FLAG_1_NO_DELETE: u64 = 8;
const FLAG_1_PIE: u64 = 0x0800_0000;
/// Bits of `DT_FLAGS_1` with effects beyond the object.
const REACHING: [(u64, &str); 4] =
    [(2, "DF_1_GLOBAL"), (0x20, "DF_1_INITFIRST"), (0x40, "DF_1_NOOPEN"), (0x400, "DF_1_INTERPOSE")];

/// The numbers and names of machine architectures in ELF headers.
const MACHINES: [(u16, &str); 6] =
    [(3, "x86"), (40, "arm"), (62, "x86_64"), (183, "aarch64"), (243, "riscv64"), (21, "powerpc64")];

#[derive(Debug, Clone, Copy)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_bytes: u64,
    memory_bytes: u64,
}

/// A shared object for this machine.
#[derive(Debug)]
pub struct Elf<'a> {
    bytes: &'a [u8],
    segments: Vec<Segment>,
    dynamic: Vec<(u64, u64)>,
}

/// A symbol in the loader's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// The symbol's name.
    pub name: String,
    /// Whether the object defines the symbol; otherwise another object must.
    pub is_defined: bool,
    /// Whether the object may be loaded although no object defines the symbol.
    pub is_weak: bool,
    /// Whether the symbol is a function.
    pub is_function: bool,
    /// The symbol's address, relative to the start of the object.
    pub address: u64,
    /// The symbol's size in bytes.
    pub size_bytes: u64,
}

fn number<const N: usize>(bytes: &[u8], at: u64) -> Option<[u8; N]> {
    let at = usize::try_from(at).ok()?;
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: u64) -> Option<u16> {
    number(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: u64) -> Option<u32> {
    number(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: u64) -> Option<u64> {
    number(bytes, at).map(u64::from_le_bytes)
}

/// A text of the file, escaped and shortened for messages.
fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(120).flat_map(char::escape_debug).collect()
}

fn machine_name(machine: u16) -> String {
    let known = MACHINES.iter().find(|(number, _)| *number == machine);
    known.map_or_else(|| format!("machine {machine}"), |(_, name)| (*name).to_owned())
}

impl<'a> Elf<'a> {
    /// Reads the headers of `bytes`.
    ///
    /// # Errors
    /// A sentence for the author: the file is cut off, inconsistent, or can't be loaded here.
    pub fn read(bytes: &'a [u8]) -> Result<Self, String> {
        check_header(bytes)?;
        let segments = read_segments(bytes)?;
        let mut elf = Self { bytes, segments, dynamic: Vec::new() };
        elf.check_segments()?;
        elf.dynamic = elf.read_dynamic()?;
        Ok(elf)
    }

    fn check_segments(&self) -> Result<(), String> {
        let length = self.bytes.len() as u64;
        let mut end = 0_u64;
        for (at, segment) in self.segments.iter().enumerate() {
            let file_end = segment.offset.checked_add(segment.file_bytes);
            if matches!(segment.kind, SEGMENT_LOAD | SEGMENT_DYNAMIC | SEGMENT_TLS)
                && file_end.is_none_or(|end| end > length)
            {
                return Err(format!(
                    "segment {at} has {} bytes at offset {}, and the file ends at {length}: the upload was cut off, or the header is \
                     wrong; send the file that the linker wrote",
                    segment.file_bytes, segment.offset
                ));
            }
            if segment.kind == SEGMENT_TLS && segment.memory_bytes > THREAD_BYTES_MAX {
                return Err(format!(
                    "its thread-local variables have {} bytes, which each thread of the server would need; the limit is {THREAD_BYTES_MAX}",
                    segment.memory_bytes
                ));
            }
            if segment.kind != SEGMENT_LOAD {
                continue;
            }
            let memory_end = segment.address.checked_add(segment.memory_bytes);
            let is_in_order = segment.address >= end && segment.file_bytes <= segment.memory_bytes;
            let is_mapped = segment.address % PAGE_BYTES == segment.offset % PAGE_BYTES;
            let Some(memory_end) = memory_end.filter(|_| is_in_order && is_mapped) else {
                return Err(format!(
                    "segment {at} overlaps another, or its offset {}, address {}, {} bytes of the file and {} of memory do not fit \
                     together: the header is wrong; send the file that the linker wrote",
                    segment.offset, segment.address, segment.file_bytes, segment.memory_bytes
                ));
            };
            end = memory_end;
        }
        if end > MEMORY_BYTES_MAX {
            return Err(format!("it takes {end} bytes of memory when it is loaded; the limit is {MEMORY_BYTES_MAX}"));
        }
        Ok(())
    }

    fn read_dynamic(&self) -> Result<Vec<(u64, u64)>, String> {
        let mut found = self.segments.iter().filter(|segment| segment.kind == SEGMENT_DYNAMIC);
        let (Some(segment), None) = (found.next(), found.next()) else {
            return Err("it has no dynamic section, or several: link it as a shared object (cc -shared)".to_owned());
        };
        // The loader reads the bytes that are mapped at the address, and ignores the offset. Both values must agree here.
        let bytes = self
            .loaded(segment.address, segment.file_bytes)
            .filter(|_| self.offset(segment.address, segment.file_bytes) == usize::try_from(segment.offset).ok());
        let bytes = bytes.ok_or("its dynamic section is not in a loaded segment: the header is wrong")?;
        let mut entries = Vec::new();
        for entry in bytes.chunks_exact(DYNAMIC_BYTES) {
            let (Some(tag), Some(value)) = (u64_at(entry, 0), u64_at(entry, 8)) else { break };
            if tag == 0 {
                return Ok(entries);
            }
            if entries.len() == DYNAMIC_MAX {
                return Err(format!("its dynamic section has more than {DYNAMIC_MAX} entries"));
            }
            entries.push((tag, value));
        }
        Err("its dynamic section does not end: the upload was damaged, or the header is wrong".to_owned())
    }

    /// The file offset of `size_bytes` bytes at `address`.
    fn offset(&self, address: u64, size_bytes: u64) -> Option<usize> {
        let load = self.segments.iter().filter(|segment| segment.kind == SEGMENT_LOAD);
        let mut inside = load.filter_map(|segment| {
            let into = address.checked_sub(segment.address)?;
            let left = segment.file_bytes.checked_sub(into)?;
            (size_bytes <= left).then(|| segment.offset.checked_add(into))?
        });
        usize::try_from(inside.next()?).ok()
    }

    /// The file's bytes that are mapped at `address`.
    fn loaded(&self, address: u64, size_bytes: u64) -> Option<&'a [u8]> {
        let start = self.offset(address, size_bytes)?;
        let range: Range<usize> = start..start.checked_add(usize::try_from(size_bytes).ok()?)?;
        self.bytes.get(range)
    }

    /// The number at `address` in memory, before any code has run.
    #[must_use]
    pub fn u32_at(&self, address: u64) -> Option<u32> {
        u32_at(self.loaded(address, 4)?, 0)
    }

    fn entry(&self, wanted: u64) -> Option<u64> {
        self.dynamic.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value)
    }

    fn flags(&self, tag: u64) -> u64 {
        self.dynamic.iter().filter(|(found, _)| *found == tag).fold(0, |all, (_, value)| all | value)
    }

    /// The text at offset `at` in the string table.
    fn string(&self, at: u64) -> Option<&'a [u8]> {
        let table = self.loaded(self.entry(STRINGS)?, self.entry(STRINGS_BYTES)?)?;
        let text = table.get(usize::try_from(at).ok()?..)?;
        let text = text.get(..text.len().min(NAME_BYTES_MAX))?;
        text.get(..memchr::memchr(0, text)?)
    }

    /// The libraries that the loader loads for the object, as named in it.
    ///
    /// # Errors
    /// A sentence for the author: a name is too long or lies outside of the string table, or there are too many names.
    pub fn needed(&self) -> Result<Vec<String>, String> {
        let names = self.dynamic.iter().filter(|(tag, _)| *tag == NEEDED);
        if names.clone().count() > NEEDED_MAX {
            return Err(format!("it names more than {NEEDED_MAX} libraries (DT_NEEDED)"));
        }
        let name = |(_, at): &(u64, u64)| {
            let text = self.string(*at).filter(|text| text.len() <= NEEDED_BYTES_MAX).ok_or(
                "the name of a library (DT_NEEDED) lies outside of its table of strings, or is longer than 255 bytes",
            )?;
            Ok(std::str::from_utf8(text).map_or_else(|_| printable(text), str::to_owned))
        };
        names.map(name).collect()
    }

    /// Reasons to refuse the object, one sentence each: actions of the loader beyond mapping the object.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (tag, value) in &self.dynamic {
            if let Some((_, name)) = SEARCHING.iter().find(|(searching, _)| searching == tag) {
                let text = self.string(*value).map(printable).unwrap_or_default();
                problems.push(format!(
                    "it sets where libraries are searched for or loaded from ({name} \"{text}\"): the server uses only the system's \
                     libraries; link without -rpath and the like, or remove it: patchelf --remove-rpath FILE"
                ));
            }
        }
        if self.entry(TEXT_RELOCATIONS).is_some() || self.flags(FLAGS) & FLAG_TEXT_RELOCATIONS != 0 {
            problems.push(
                "its code would be written to while it is loaded (text relocations, DT_TEXTREL): compile all of it as \
                 position-independent code, with -fPIC"
                    .to_owned(),
            );
        }
        let flags = self.flags(FLAGS_1);
        if flags & FLAG_1_PIE != 0 {
            problems.push("it is a program (DF_1_PIE), not a shared object: link it with -shared".to_owned());
        }
        for (_, name) in REACHING.iter().filter(|(bit, _)| flags & bit != 0) {
            problems.push(format!(
                "its flag {name} reaches beyond the object, or keeps it from being loaded by dlopen(3): link without the flag"
            ));
        }
        match self.segments.iter().find(|segment| segment.kind == SEGMENT_STACK) {
            None => problems.push(
                "it has no PT_GNU_STACK, without which the loader would make all stacks executable: link with -z noexecstack"
                    .to_owned(),
            ),
            Some(segment) if segment.flags & EXECUTABLE != 0 => problems.push(
                "it asks for an executable stack (PT_GNU_STACK), which all threads of the process would get: link with -z noexecstack, \
                 and don't use nested functions whose address is taken"
                    .to_owned(),
            ),
            Some(_) => {}
        }
        let both = WRITABLE | EXECUTABLE;
        if self.segments.iter().any(|segment| segment.kind == SEGMENT_LOAD && segment.flags & both == both) {
            problems.push("one of its segments is both writable and executable: link without -N (--omagic)".to_owned());
        }
        problems
    }

    /// Warnings, one sentence each: properties that work, but not as in a compiled module.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.flags(FLAGS_1) & FLAG_1_NO_DELETE != 0 {
            remarks.push(
                "it stays in memory after its replacement, and so does each further version (DF_1_NODELETE)".to_owned(),
            );
        }
        if self.flags(FLAGS) & FLAG_STATIC_TLS != 0 {
            remarks.push(
                "each version takes memory that a process has once, for thread-local variables (DF_STATIC_TLS): after many versions \
                 no memory may be left; compile the object without -ftls-model=initial-exec"
                    .to_owned(),
            );
        }
        remarks
    }

    /// The symbols in the loader's table.
    ///
    /// # Errors
    /// A sentence for the author: the table is missing, or lies outside of the file.
    pub fn symbols(&self) -> Result<Vec<Symbol>, String> {
        let damaged = || "its table of symbols is damaged, or lies outside of the file".to_owned();
        let table = self.entry(SYMBOLS).ok_or("it has no table of symbols (DT_SYMTAB)")?;
        let count = self.symbol_count().ok_or_else(damaged)?;
        if count > SYMBOLS_MAX {
            return Err(format!("it has more than {SYMBOLS_MAX} symbols"));
        }
        let all = self.loaded(table, count.checked_mul(SYMBOL_BYTES).ok_or_else(damaged)?).ok_or_else(damaged)?;
        let (mut symbols, mut names_bytes) = (Vec::new(), 0);
        // The first entry is not a symbol.
        for at in (1..count).map(|number| number * SYMBOL_BYTES) {
            let read = || {
                let (name, info) = (u32_at(all, at)?, *all.get(usize::try_from(at).ok()? + 4)?);
                let (section, address, size_bytes) =
                    (u16_at(all, at + 6)?, u64_at(all, at + 8)?, u64_at(all, at + 16)?);
                let name = String::from_utf8_lossy(self.string(u64::from(name))?).into_owned();
                let (binding, kind) = (info >> 4, info & 15);
                let (is_defined, is_weak) = (section != 0, binding == 2);
                // Bindings that the loader sees: global, weak, or unique in the process.
                let is_seen = matches!(binding, 1 | 2 | 10);
                Some((is_seen, Symbol { name, is_defined, is_weak, is_function: kind == 2, address, size_bytes }))
            };
            let (is_seen, symbol) = read().ok_or_else(damaged)?;
            names_bytes += symbol.name.len();
            if names_bytes > NAMES_BYTES_MAX {
                return Err(format!("the names of its symbols take more than {NAMES_BYTES_MAX} bytes"));
            }
            symbols.extend(is_seen.then_some(symbol));
        }
        Ok(symbols)
    }

    /// The number of symbols. The loader finds symbols through a hash table and prefers the newer kind.
    fn symbol_count(&self) -> Option<u64> {
        let Some(table) = self.entry(GNU_HASH) else {
            return self.u32_at(self.entry(HASH)?.checked_add(4)?).map(u64::from);
        };
        let word = |at: u64| self.u32_at(table.checked_add(at)?).map(u64::from);
        let (buckets, first, bloom) = (word(0)?, word(4)?, word(8)?);
        let buckets_at = 16_u64.checked_add(bloom.checked_mul(8)?)?;
        let chains_at = buckets_at.checked_add(buckets.checked_mul(4)?)?;
        let table_bytes = buckets.checked_mul(4)?;
        let all = self.loaded(table.checked_add(buckets_at)?, table_bytes)?;
        let last = all.chunks_exact(4).filter_map(|bucket| u32_at(bucket, 0)).max().map(u64::from).unwrap_or_default();
        if last < first {
            return Some(first);
        }
        for number in last..last.checked_add(SYMBOLS_MAX)? {
            // The lowest bit marks the last symbol of a bucket.
            if word(chains_at.checked_add((number - first).checked_mul(4)?)?)? & 1 != 0 {
                return number.checked_add(1);
            }
        }
        None
    }
}

/// Checks the file's header.
fn check_header(bytes: &[u8]) -> Result<(), String> {
    if bytes.len() < HEADER_BYTES {
        return Err(format!(
            "it ends after {} bytes, within its ELF header of {HEADER_BYTES}: the upload was cut off; send the whole file",
            bytes.len()
        ));
    }
    let (class, order) = (bytes.get(4), bytes.get(5));
    if class != Some(&2) || order != Some(&1) {
        return Err(format!(
            "it is not a 64-bit little-endian object (class {}, data {}): build it for {}",
            class.copied().unwrap_or_default(),
            order.copied().unwrap_or_default(),
            std::env::consts::ARCH
        ));
    }
    let field = |at| u16_at(bytes, at).unwrap_or_default();
    let (kind, machine) = (field(16), field(18));
    if machine_name(machine) != std::env::consts::ARCH {
        return Err(format!(
            "it was built for {}, and this server runs on {}: build it for {}-unknown-linux-gnu",
            machine_name(machine),
            std::env::consts::ARCH,
            std::env::consts::ARCH
        ));
    }
    if kind != TYPE_SHARED {
        let what = match kind {
            1 => "an object file that is not linked yet (ET_REL)",
            2 => "a program (ET_EXEC)",
            4 => "a core file (ET_CORE)",
            _ => "not a shared object",
        };
        return Err(format!(
            "it is {what}: link it as a shared object (cc -shared, crate-type = [\"cdylib\"], zig build-lib -dynamic)"
        ));
    }
    // System V, or GNU with its extensions.
    if !matches!(bytes.get(7), Some(0 | 3)) {
        return Err("it was built for another system than Linux (EI_OSABI)".to_owned());
    }
    Ok(())
}

fn read_segments(bytes: &[u8]) -> Result<Vec<Segment>, String> {
    let start = u64_at(bytes, 32).unwrap_or_default();
    let (size, count) = (u16_at(bytes, 54).unwrap_or_default(), u64::from(u16_at(bytes, 56).unwrap_or_default()));
    if u64::from(size) != SEGMENT_BYTES || count == 0 || count > SEGMENTS_MAX {
        return Err(format!(
            "its header announces {count} program headers of {size} bytes; there must be 1 to {SEGMENTS_MAX} of {SEGMENT_BYTES}: the header is wrong"
        ));
    }
    let segment = |number: u64| {
        let at = start.checked_add(number * SEGMENT_BYTES)?;
        // The whole entry must lie in the file before any field is read.
        at.checked_add(SEGMENT_BYTES).filter(|end| *end <= bytes.len() as u64)?;
        Some(Segment {
            kind: u32_at(bytes, at)?,
            flags: u32_at(bytes, at + 4)?,
            offset: u64_at(bytes, at + 8)?,
            address: u64_at(bytes, at + 16)?,
            file_bytes: u64_at(bytes, at + 32)?,
            memory_bytes: u64_at(bytes, at + 40)?,
        })
    };
    let segments: Option<Vec<Segment>> = (0..count).map(segment).collect();
    segments.ok_or_else(|| {
        format!(
            "its program headers at offset {start} go beyond its end at {}: the upload was cut off, or the header is wrong; send the \
             whole file",
            bytes.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    /// Compiles `source` with cc and `flags`, and returns the bytes of the object.
    fn built(dir: &Path, source: &str, flags: &[&str]) -> Vec<u8> {
        std::fs::write(dir.join("o.c"), source).unwrap();
        let made = Command::new("cc").args(["-w", "o.c", "-o", "o.so"]).args(flags).current_dir(dir).status().unwrap();
        assert!(made.success(), "{flags:?}");
        std::fs::read(dir.join("o.so")).unwrap()
    }

    const SOURCE: &str =
        "#include <math.h>\nunsigned mark = 7;\nint other(void);\ndouble f(double x) { return cos(x) + other(); }\n";

    #[test]
    fn names_needs_and_numbers_are_read_and_every_damage_is_survived() {
        let dir = tempfile::tempdir().unwrap();
        for hash in ["-Wl,--hash-style=gnu", "-Wl,--hash-style=sysv", "-Wl,--hash-style=both"] {
            let bytes = built(dir.path(), SOURCE, &["-shared", "-fPIC", "-lm", hash]);
            let elf = Elf::read(&bytes).unwrap();
            assert_eq!((elf.problems(), elf.remarks()), (vec![], vec![]));
            assert!(elf.needed().unwrap().contains(&"libm.so.6".to_owned()));
            let symbols = elf.symbols().unwrap();
            let named = |name: &str| symbols.iter().find(|symbol| symbol.name == name).unwrap();
            let mark = named("mark");
            assert!((mark.is_defined, mark.is_function, mark.size_bytes) == (true, false, 4), "{mark:?}");
            assert_eq!(elf.u32_at(mark.address), Some(7));
            assert!(named("f").is_function && !named("other").is_defined && !named("other").is_weak);
        }
        let bytes = built(dir.path(), SOURCE, &["-shared", "-fPIC", "-lm"]);
        let read = |bytes: &[u8]| {
            let Ok(elf) = Elf::read(bytes) else { return };
            let _ = (elf.problems(), elf.remarks(), elf.needed(), elf.symbols());
        };
        for end in (0..bytes.len()).step_by(7) {
            read(&bytes[..end]);
        }
        assert!(Elf::read(&bytes[..bytes.len() / 4]).unwrap_err().contains("cut off"));
        assert!(Elf::read(&bytes[..20]).unwrap_err().contains("cut off"));
        for at in (0..2048).chain((2048..bytes.len()).step_by(3)) {
            for value in [0, 0xff, bytes[at] ^ 0x80] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                read(&damaged);
            }
        }
    }

    #[test]
    fn what_is_no_shared_object_of_this_machine_says_so() {
        let dir = tempfile::tempdir().unwrap();
        for (flags, words) in
            [(&["-c", "-fPIC"][..], "not linked yet"), (&["-shared", "-fPIC", "-nostdlib", "-Wl,-z,execstack"][..], "")]
        {
            let bytes = built(dir.path(), "int x;", flags);
            match Elf::read(&bytes) {
                Ok(elf) => assert!(elf.problems().iter().any(|text| text.contains("executable stack"))),
                Err(text) => assert!(!words.is_empty() && text.contains(words), "{text}"),
            }
        }
        let program = built(dir.path(), "int main(void) { return 0; }", &["-pie", "-fPIE"]);
        assert!(Elf::read(&program).unwrap().problems().iter().any(|text| text.contains("is a program")));
        let program = built(dir.path(), "int main(void) { return 0; }", &["-no-pie"]);
        assert!(Elf::read(&program).unwrap_err().contains("a program (ET_EXEC)"));
        let mut bytes = built(dir.path(), "int x;", &["-shared", "-fPIC"]);
        bytes[18] = 243;
        assert!(Elf::read(&bytes).unwrap_err().contains("built for riscv64"));
        bytes[4] = 1;
        assert!(Elf::read(&bytes).unwrap_err().contains("64-bit"));
    }
}
