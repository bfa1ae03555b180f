//! Ready shared objects: modules that were built elsewhere, in any language. The server takes them where the operator
//! allows it (`--allow-binary`), and checks them before any of their code runs. After that they are deployed like any
//! module.

use super::deploy::{DeployError, SourceFields};
use super::libraries::{Libraries, Library};
use crate::abi::module::MODULE_BYTES;
use crate::abi::types::ABI_VERSION;
use crate::domain::elf::{Elf, MAGIC, Symbol};

/// The language of a module without a source, in answers and records.
pub(super) const LANGUAGE: &str = "binary";

/// The value of `cweb_module_api` for a module whose functions take the context first.
const API: u32 = 3;

/// Functions of libc with effects beyond the module. The linker replaces them in a compiled module.
const REACHING: [&str; 8] = ["_exit", "_Exit", "quick_exit", "pthread_exit", "thrd_exit", "err", "errx", "error"];

/// Limit on the problems in one answer.
const PROBLEMS_MAX: usize = 32;

/// Facts about a shared object, read before it is loaded.
#[derive(Debug)]
pub(super) struct SharedObject {
    /// The libraries that the object names, without those of every module.
    pub(super) libraries: Vec<Library>,
    /// Warnings about the object, in the format of a compiler.
    pub(super) remarks: String,
}

/// Whether `bytes` are an ELF file and not a source.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// All problems, in a compiler's format.
fn refused(problems: &[String]) -> DeployError {
    let problems = problems.get(..problems.len().min(PROBLEMS_MAX)).unwrap_or_default();
    DeployError::Compile(
        problems.iter().map(|text| format!("error: the shared object can't be a module: {text}\n")).collect(),
    )
}

/// Refuses shared objects where the operator takes none (`None`), or those with more than `bytes_max` bytes.
pub(super) fn check_allowed(bytes: &[u8], bytes_max: Option<usize>) -> Result<(), DeployError> {
    let Some(bytes_max) = bytes_max else {
        let text = "error: this is a ready shared object (ELF), and this server takes sources only; its operator allows shared objects \
                    with: cweb serve --allow-binary\n";
        return Err(DeployError::Compile(text.to_owned()));
    };
    if bytes.len() > bytes_max {
        let text = format!("it has {} bytes, more than {bytes_max}, the limit of --project-bytes-max", bytes.len());
        return Err(refused(&[text]));
    }
    Ok(())
}

/// Checks the shared object `bytes` without running its code.
///
/// # Errors
/// [`DeployError::Compile`]: all problems, one line each.
pub(super) fn check(bytes: &[u8], libraries: &Libraries) -> Result<SharedObject, DeployError> {
    let alone = |text: String| refused(&[text]);
    let elf = Elf::read(bytes).map_err(alone)?;
    let mut problems = elf.problems();
    let symbols = elf.symbols().map_err(alone)?;
    problems.extend(interface(&elf, &symbols));
    let mut found = Vec::new();
    for name in elf.needed().map_err(alone)? {
        match libraries.shared(&name) {
            Ok(library) => found.extend(library),
            Err(text) => problems.push(text),
        }
    }
    if !problems.is_empty() {
        return Err(refused(&problems));
    }
    let mut remarks = elf.remarks();
    let wanted = |name: &&str| symbols.iter().any(|symbol| !symbol.is_defined && symbol.name == **name);
    let reaching: Vec<&str> = REACHING.iter().filter(|name| wanted(name)).copied().collect();
    if !reaching.is_empty() {
        remarks.push(format!(
            "it uses {}, which the server replaces in compiled modules only: with --isolation none a call ends the server, with --isolation \
             process it may end the process of all modules of the domain",
            reaching.join(", ")
        ));
    }
    Ok(SharedObject { libraries: found, remarks: remarks.iter().map(|text| warning(text)).collect() })
}

fn warning(text: &str) -> String {
    format!("object: warning: {text}\n")
}

/// Problems with the symbols that the loader looks for, one sentence each.
fn interface(elf: &Elf<'_>, symbols: &[Symbol]) -> Vec<String> {
    let defined = |name: &str| symbols.iter().find(|symbol| symbol.is_defined && symbol.name == name);
    let mut problems = Vec::new();
    for (name, accepted) in [("cweb_module_abi", ABI_VERSION), ("cweb_module_api", API)] {
        let Some(symbol) = defined(name) else {
            problems.push(format!(
                "it exports no symbol {name}, the version of its interface as a constant of 32 bits; accepted is {accepted}"
            ));
            continue;
        };
        match elf.u32_at(symbol.address) {
            Some(value) if value == accepted => {}
            Some(value) => problems.push(format!(
                "its {name} is {value}, and this server accepts {accepted} only: build it with the headers of this server (cweb sdk)"
            )),
            None => problems.push(format!("its {name} is not a constant of the file: make it constant data of 32 bits")),
        }
    }
    match defined("cweb_bind_host") {
        Some(symbol) if symbol.is_function => {}
        Some(_) => problems.push("its cweb_bind_host is not a function".to_owned()),
        None => problems.push(
            "it exports no function cweb_bind_host, which gets the table of the server's functions: see cweb_host.h"
                .to_owned(),
        ),
    }
    match defined("config") {
        Some(symbol) if symbol.size_bytes == MODULE_BYTES as u64 => {}
        Some(symbol) => problems.push(format!(
            "its config has {} bytes, and module_t of this server has {MODULE_BYTES}: the structure differs from the one in \
             cweb.h, or cweb.h is of another version than this server's (cweb sdk)",
            symbol.size_bytes
        )),
        None => problems.push("it exports no symbol config, the module_t of cweb.h that says what the module serves".to_owned()),
    }
    problems
}

/// A warning that names the functions whose number of arguments no debug information proves.
pub(super) fn unproved(places: &[String]) -> String {
    if places.is_empty() {
        return String::new();
    }
    warning(&format!(
        "no debug information says how many arguments these functions take, so the server can't find a wrong number: {}; a handler is \
         called with 3: the context, the request and the response",
        places.join(", ")
    ))
}

/// A warning for each field that came with the object and has no effect.
pub(super) fn ignored(fields: &SourceFields) -> String {
    let names = fields.names_beyond(&SourceFields::default());
    let line = |name| {
        format!(
            "form: warning: the field {name} has no effect here: the config of a shared object declares what it serves\n"
        )
    };
    names.into_iter().map(line).collect()
}
