//! Lists all symbols of a shared object that no library defines; the loader's message names only the first.
//!
//! Runs in the inspection process, after the loader has refused the object.

use super::elf::Elf;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Limit, in bytes, on the file; larger files are not read.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Limit on the names in the message.
const NAMES_MAX: usize = 20;

/// The text to append to the loader's message about the object at `path`; empty if no symbol is missing.
pub(super) fn sentence(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    let missing = if read.is_ok() { missing(&bytes) } else { Vec::new() };
    if missing.is_empty() {
        return String::new();
    }
    let more = missing.len().saturating_sub(NAMES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let names = missing.get(..missing.len().min(NAMES_MAX)).unwrap_or_default().join(", ");
    let mut text = format!(
        "; neither the server nor the libraries that the object names define {names}{more}: link it with the library that defines \
         them; with -Wl,-z,defs the linker reports them"
    );
    if missing.iter().any(|name| name.starts_with("cweb_") || name.starts_with("http_")) {
        text.push_str(
            "; the functions of cweb.h are compiled into a module in C: code in another language must use the function table that cweb_bind_host gets",
        );
    }
    text
}

/// The names that the object needs and that neither this program nor the object's libraries define.
fn missing(bytes: &[u8]) -> Vec<String> {
    let Ok(elf) = Elf::read(bytes) else { return Vec::new() };
    let (Ok(needed), Ok(symbols)) = (elf.needed(), elf.symbols()) else { return Vec::new() };
    for library in needed.into_iter().filter_map(|name| CString::new(name).ok()) {
        // SAFETY: a C string. The libraries' constructors run, as they do when the loader loads them for the object.
        unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_GLOBAL) };
    }
    let wanted = symbols.into_iter().filter(|symbol| !symbol.is_defined && !symbol.is_weak);
    let is_missing = |name: &String| {
        let Ok(name) = CString::new(name.as_str()) else { return false };
        // SAFETY: a C string; only whether there is an address counts.
        unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()).is_null() }
    };
    wanted.map(|symbol| symbol.name).filter(|name| !name.is_empty()).filter(is_missing).collect()
}
