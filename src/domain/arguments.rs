//! Checks that the functions that a module declares take as many arguments as the server passes.
//!
//! The compiler refuses a handler of another kind, unless the source hides the types by a cast, by a function without a
//! prototype, or by a pragma. The debug information, which every module has, shows the real parameters. This code runs in
//! the inspection process, whose sandbox limits the cost of hostile debug information.

use crate::abi::module::Declared;
use addr2line::gimli::{
    self, AttributeValue, DW_AT_abstract_origin, DW_AT_language, DW_AT_producer, DW_AT_specification,
    DW_TAG_formal_parameter, DW_TAG_subprogram, DW_TAG_unspecified_parameters, DebuggingInformationEntry, DwLang,
    Dwarf, EndianSlice, Error, NativeEndian, SectionId, Unit, UnitOffset,
};
use object::{Object, ObjectSection};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

type Bytes<'a> = EndianSlice<'a, NativeEndian>;

/// Limit, in bytes, on the file; larger files are not read.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Limit on debugging entries; the rest is not read.
const ENTRIES_MAX: usize = 2_000_000;

/// Checks the functions `declared` of the shared object at `path`, which is loaded at `base`. Returns a sentence for each
/// problem, and the places of functions without debug information.
pub(super) fn problems(path: &Path, base: usize, declared: &[Declared]) -> (Vec<String>, Vec<String>) {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    let place = |declared: &Declared| format!("config.{}", declared.place);
    if read.is_err() || base == 0 {
        return (Vec::new(), declared.iter().map(place).collect());
    }
    let offset = |declared: &Declared| declared.address.checked_sub(base).map(|offset| offset as u64);
    let wanted = declared.iter().filter_map(offset).collect();
    // Unreadable debug information proves nothing. A panic of its parser is not the module's fault.
    let taken = std::panic::catch_unwind(|| taken(&bytes, &wanted)).unwrap_or_default();
    let problem = |declared: &Declared| {
        let (taken, gets) = (taken.get(&offset(declared)?)?, declared.arguments);
        let takes = taken.parameters;
        // A function without parameters ignores the arguments that it gets.
        (takes > gets || takes < gets && takes != 0 && !taken.may_be_more).then(|| {
            format!(
                "config.{}: the function takes {takes} arguments, but would be called with {gets}; in C a cast, a \
                 function without a prototype or a pragma hides that from the compiler",
                declared.place
            )
        })
    };
    let is_unknown = |declared: &&Declared| {
        let known = offset(declared).and_then(|offset| taken.get(&offset));
        known.is_none_or(|taken| taken.may_be_more && taken.parameters < declared.arguments)
    };
    (declared.iter().filter_map(problem).collect(), declared.iter().filter(is_unknown).map(place).collect())
}

/// The parameters of a function according to the debug information.
#[derive(Debug, Clone, Copy)]
struct Taken {
    parameters: usize,
    /// Whether parameters may be missing: compilers of languages other than C and C++ leave out unnamed parameters.
    may_be_more: bool,
}

/// The languages whose compilers leave out no parameter: C and C++, of any year.
const C: [DwLang; 11] = [
    gimli::DW_LANG_C89,
    gimli::DW_LANG_C,
    gimli::DW_LANG_C99,
    gimli::DW_LANG_C11,
    gimli::DW_LANG_C17,
    gimli::DW_LANG_C_plus_plus,
    gimli::DW_LANG_C_plus_plus_03,
    gimli::DW_LANG_C_plus_plus_11,
    gimli::DW_LANG_C_plus_plus_14,
    gimli::DW_LANG_C_plus_plus_17,
    gimli::DW_LANG_C_plus_plus_20,
];
/// How compilers of C and C++ name themselves: other compilers, such as Zig's, also claim the language C.
const COMPILERS: [&str; 2] = ["GNU C", "clang"];

/// Whether the unit with this first entry has all parameters in its debug information.
fn names_all(dwarf: &Dwarf<Bytes<'_>>, unit: &Unit<Bytes<'_>>, root: &DebuggingInformationEntry<Bytes<'_>>) -> bool {
    let Some(AttributeValue::Language(language)) = root.attr_value(DW_AT_language) else { return false };
    let producer = root.attr_value(DW_AT_producer).and_then(|value| dwarf.attr_string(unit, value).ok());
    let producer = producer.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    C.contains(&language) && COMPILERS.iter().any(|name| producer.contains(name))
}

/// The number of parameters of the functions at the offsets `wanted`, as far as the debug information says.
fn taken(bytes: &[u8], wanted: &HashSet<u64>) -> HashMap<u64, Taken> {
    let mut taken = HashMap::new();
    // Entries read before an error count.
    let _ = read(bytes, wanted, &mut taken);
    taken
}

fn read(bytes: &[u8], wanted: &HashSet<u64>, taken: &mut HashMap<u64, Taken>) -> Result<(), Error> {
    let Ok(file) = object::File::parse(bytes) else { return Ok(()) };
    let section = |id: SectionId| -> Result<Bytes<'_>, Error> {
        // The section must be uncompressed; a compressed section counts as missing.
        let data = file.section_by_name(id.name()).and_then(|section| section.data().ok()).unwrap_or_default();
        Ok(EndianSlice::new(data, NativeEndian))
    };
    let dwarf = Dwarf::load(section)?;
    let mut units = dwarf.units();
    let mut left = ENTRIES_MAX;
    while let Some(header) = units.next()? {
        let unit = dwarf.unit(header)?;
        unit_functions(&dwarf, &unit, wanted, taken, &mut left)?;
    }
    Ok(())
}

/// The facts about a function: its start, if it is wanted, and its parameters.
struct Function {
    begins: Option<u64>,
    origin: Option<UnitOffset>,
    parameters: usize,
    /// Whether more parameters may follow: `...`, or neither a prototype nor a definition.
    is_open: bool,
}

fn unit_functions(
    dwarf: &Dwarf<Bytes<'_>>,
    unit: &Unit<Bytes<'_>>,
    wanted: &HashSet<u64>,
    taken: &mut HashMap<u64, Taken>,
    left: &mut usize,
) -> Result<(), Error> {
    let mut functions: HashMap<UnitOffset, Function> = HashMap::new();
    // The functions around the current entry: they nest in GNU C.
    let mut open: Vec<(isize, UnitOffset)> = Vec::new();
    let mut entries = unit.entries();
    let mut may_be_more = true;
    while let Some(entry) = entries.next_dfs()? {
        *left = left.saturating_sub(1);
        if *left == 0 {
            return Ok(());
        }
        let depth = entry.depth();
        while open.last().is_some_and(|(around, _)| *around >= depth) {
            open.pop();
        }
        let parent = open.last().filter(|(around, _)| around + 1 == depth).map(|(_, offset)| *offset);
        let tag = entry.tag();
        if depth == 0 {
            may_be_more = !names_all(dwarf, unit, entry);
        }
        if tag == DW_TAG_subprogram {
            let function = function(dwarf, unit, entry, wanted)?;
            open.push((depth, entry.offset()));
            functions.insert(entry.offset(), function);
        } else if let Some(function) = parent.and_then(|offset| functions.get_mut(&offset)) {
            function.parameters += usize::from(tag == DW_TAG_formal_parameter);
            function.is_open |= tag == DW_TAG_unspecified_parameters;
        }
    }
    for function in functions.values() {
        let Some(begins) = function.begins else { continue };
        let origin = function.origin.and_then(|offset| functions.get(&offset));
        // An out-of-line copy of an inlined function may leave parameters out.
        let parameters = origin.map_or(0, |origin| origin.parameters).max(function.parameters);
        if !function.is_open && !origin.is_some_and(|origin| origin.is_open) {
            taken.insert(begins, Taken { parameters, may_be_more });
        }
    }
    Ok(())
}

/// The facts in the entry of a function itself.
fn function<'a>(
    dwarf: &Dwarf<Bytes<'a>>,
    unit: &Unit<Bytes<'a>>,
    entry: &DebuggingInformationEntry<Bytes<'a>>,
    wanted: &HashSet<u64>,
) -> Result<Function, Error> {
    // A function with a separate part for unlikely code has several ranges; it begins at one of them.
    let mut ranges = dwarf.die_ranges(unit, entry)?;
    let mut begins = None;
    while let Some(range) = ranges.next()? {
        begins = begins.or(Some(range.begin).filter(|begin| wanted.contains(begin)));
    }
    let origin = [DW_AT_abstract_origin, DW_AT_specification].into_iter().find_map(|name| {
        if let Some(AttributeValue::UnitRef(offset)) = entry.attr_value(name) { Some(offset) } else { None }
    });
    Ok(Function { begins, origin, parameters: 0, is_open: false })
}
