//! The plan of a compilation, made before any program runs: the reading of each source, libraries, flags.

use super::super::deploy::{DeployError, SourceFields};
use super::super::dialect::{Language, Reading, Wants, Words, without_doubles};
use super::super::flags::{self, OPENMP};
use super::super::instruments::Instruments;
use super::super::libraries::{Libraries, Library, Resolved};
use super::super::project::{Project, Source};
use super::super::shared_object::{self, SharedObject};
use crate::abi::manifest::Limits;
use crate::abi::module::limits_source;
use std::path::Path;

/// Silences the compiler's warnings about `#pragma cweb`.
const PRAGMA_FLAG: &str = "-Wno-unknown-pragmas";

/// Keeps the OpenMP library in the process: its threads outlive the module that started them.
const OPENMP_EPILOGUE: &str = "\n\n#include <dlfcn.h>\n__attribute__((constructor)) static void cweb_keep_openmp(void) { \
     (void)dlopen(\"libgomp.so.1\", RTLD_LAZY | RTLD_NOLOAD | 0x1000 /* RTLD_NODELETE */); }\n";

/// One source of a project.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) path: String,
    pub(super) reading: Reading,
    /// The flags of the module and of this unit.
    pub(super) cflags: Vec<String>,
}

/// The plan of a compilation.
#[derive(Debug)]
pub(in crate::module) struct Plan {
    /// The reading of the file, or of the project's first unit.
    reading: Reading,
    /// The units of a project.
    units: Vec<Unit>,
    libs: Vec<Resolved>,
    cflags: Vec<String>,
    openmp: bool,
    instruments: Instruments,
    /// The fields that came with the source and make a difference.
    fields: SourceFields,
    object: Option<Object>,
    limits: Limits,
}

/// A ready shared object, which is not compiled.
#[derive(Debug)]
struct Object {
    libraries: Vec<Library>,
    /// Warnings about the shared object.
    said: String,
    /// Warnings about fields of `module.toml` that need a source.
    remarks: String,
}

/// The compiler of C++ beside a compiler of C: `gcc-12` has `g++-12`, `clang` has `clang++`.
pub(super) fn cpp_program(program: &str) -> String {
    let (dir, name) = program.rsplit_once('/').map_or(("", program), |(dir, name)| (dir, name));
    let cpp = if name.contains("clang") {
        name.replacen("clang", "clang++", 1)
    } else if name.contains("gcc") {
        name.replacen("gcc", "g++", 1)
    } else {
        "c++".to_owned()
    };
    if dir.is_empty() { cpp } else { format!("{dir}/{cpp}") }
}

impl Plan {
    pub(super) fn new(
        source: &Source,
        fields: &SourceFields,
        libraries: &Libraries,
        compiler: &Path,
        instruments: &Instruments,
    ) -> Result<Self, DeployError> {
        let mut plan = match source {
            Source::File(source) => Self::of_file(source, fields)?,
            Source::Project(project) => Self::of_project(project, instruments.tests)?,
        };
        let names = std::mem::take(&mut plan.1);
        plan.0.libs = libraries.resolve(&without_doubles(names), compiler)?;
        plan.0.instruments = instruments.clone();
        plan.0.fields = SourceFields { sanitize: fields.sanitize.clone(), ..plan.0.reading.fields().clone() };
        Ok(plan.0)
    }

    /// The plan, and the names of the libraries that the source asks for.
    fn of_file(source: &[u8], fields: &SourceFields) -> Result<(Self, Vec<String>), DeployError> {
        let reading = Reading::new(source, fields);
        let Wants { libs, mut cflags } = reading.wants(reading.file()).map_err(DeployError::Compile)?;
        if !(libs.is_empty() && cflags.is_empty()) {
            cflags.push(PRAGMA_FLAG.to_owned());
        }
        let openmp = cflags.iter().any(|flag| flag == OPENMP);
        let (units, instruments) = (Vec::new(), Instruments::default());
        Ok((
            Self {
                reading,
                units,
                libs: Vec::new(),
                cflags,
                openmp,
                instruments,
                fields: SourceFields::default(),
                object: None,
                limits: Limits::default(),
            },
            libs,
        ))
    }

    fn of_project(project: &Project, with_tests: bool) -> Result<(Self, Vec<String>), DeployError> {
        let settings = &project.settings;
        let mut common = vec![PRAGMA_FLAG.to_owned()];
        common.extend(settings.std.iter().map(|standard| format!("-std={standard}")));
        common.extend(settings.cflags.iter().cloned());
        let (mut units, mut libs) = (Vec::new(), settings.libs.clone());
        let compile_error = |text: String| DeployError::Compile(text);
        let tests = if with_tests { project.test_units() } else { Vec::new() };
        for (path, language) in project.units().map_err(compile_error)?.into_iter().chain(tests) {
            let language = if language == Language::Cpp { "c++" } else { "c" };
            let fields = SourceFields { language: Some(language.to_owned()), ..SourceFields::default() };
            let reading = Reading::new(project.files.get(path).map(Vec::as_slice).unwrap_or_default(), &fields);
            let wants = reading.wants(path).map_err(compile_error)?;
            libs.extend(wants.libs);
            let cflags = common.iter().cloned().chain(wants.cflags).collect();
            units.push(Unit { path: path.to_owned(), reading, cflags });
        }
        for (path, text) in &project.files {
            // A header may name the library that it wraps.
            if [".h", ".hpp", ".hh", ".inc"].iter().any(|suffix| path.ends_with(suffix)) {
                let wants = Reading::new(text, &SourceFields::default()).wants(path).map_err(compile_error)?;
                libs.extend(wants.libs);
            }
        }
        let openmp = units.iter().any(|unit| unit.cflags.iter().any(|flag| flag == OPENMP));
        let reading = Reading::new(b"", &SourceFields::default());
        let instruments = Instruments::default();
        Ok((
            Self {
                reading,
                units,
                libs: Vec::new(),
                cflags: common,
                openmp,
                instruments,
                fields: SourceFields::default(),
                object: None,
                limits: settings.limits,
            },
            libs,
        ))
    }

    /// The plan for a ready shared object that came with `fields`.
    pub(super) fn of_object(object: SharedObject, fields: &SourceFields) -> Self {
        let language = Some(shared_object::LANGUAGE.to_owned());
        let remarks = shared_object::ignored(fields);
        Self {
            reading: Reading::new(b"", &SourceFields::default()),
            units: Vec::new(),
            libs: Vec::new(),
            cflags: Vec::new(),
            openmp: false,
            instruments: Instruments::default(),
            fields: SourceFields { language, ..SourceFields::default() },
            object: Some(Object { libraries: object.libraries, said: object.remarks, remarks }),
            limits: Limits::default(),
        }
    }

    /// Whether the plan is for a ready shared object, which is not compiled.
    pub(in crate::module) fn is_object(&self) -> bool {
        self.object.is_some()
    }

    /// Warnings about a ready shared object.
    pub(super) fn said(&self) -> &str {
        self.object.as_ref().map_or("", |object| &object.said)
    }

    /// Warnings, in a compiler's format, about fields that make no difference.
    pub(in crate::module) fn remarks(&self) -> String {
        self.object.as_ref().map_or_else(|| self.reading.remarks(), |object| object.remarks.clone())
    }

    /// The fields that came with the source and make a difference.
    pub(in crate::module) fn fields(&self) -> &SourceFields {
        &self.fields
    }

    pub(in crate::module) fn reading(&self) -> &Reading {
        &self.reading
    }

    pub(super) fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The libraries that the sources name.
    pub(in crate::module) fn libraries(&self) -> Vec<Library> {
        let of_object = self.object.iter().flat_map(|object| object.libraries.iter().cloned());
        self.libs.iter().map(|found| found.library.clone()).chain(of_object).collect()
    }

    pub(super) fn has_cpp(&self) -> bool {
        self.reading.language() == Language::Cpp
            || self.units.iter().any(|unit| unit.reading.language() == Language::Cpp)
    }

    /// Compiler flags for the whole module, including those of the libraries.
    pub(super) fn cflags(&self) -> Vec<String> {
        let libraries = self.libs.iter().flat_map(|found| found.cflags.iter().cloned());
        libraries.chain(self.cflags.iter().cloned()).chain(self.instruments.cflags()).collect()
    }

    /// Compiler flags for one unit.
    pub(super) fn unit_cflags(&self, unit: &Unit, include: &[String]) -> Vec<String> {
        let libraries = self.libs.iter().flat_map(|found| found.cflags.iter().cloned());
        let own = libraries.chain(unit.cflags.iter().cloned()).chain(self.instruments.cflags());
        own.chain(include.iter().cloned()).collect()
    }

    /// Linker flags before the libraries of every module.
    pub(super) fn link_flags(&self, is_clang: bool) -> Vec<String> {
        let libraries = self.libs.iter().flat_map(|found| found.libs.iter().cloned());
        // `--as-needed` precedes the author's libraries, so that an unused library is not mapped.
        let as_needed = (!self.libs.is_empty()).then(|| "-Wl,--as-needed".to_owned());
        let openmp = self.openmp.then(|| OPENMP.to_owned());
        let instruments = self.instruments.link_flags(is_clang).into_iter();
        instruments.chain(openmp).chain(as_needed).chain(libraries).collect()
    }

    /// Text appended to one source of the module.
    pub(super) fn epilogue(&self) -> String {
        let openmp = if self.openmp { OPENMP_EPILOGUE } else { "" };
        openmp.to_owned() + &limits_source(&self.limits)
    }

    /// The inputs of the result, beside the sources.
    pub(super) fn identity(&self) -> String {
        if let Some(object) = &self.object {
            return format!("object {:?}", object.libraries);
        }
        let libraries: String = self.libs.iter().map(|found| format!("{found:?}\n")).collect();
        let flags: Vec<String> = self.units.iter().flat_map(|unit| unit.cflags.iter().cloned()).collect();
        let machine = flags::machine(&[flags, self.cflags.clone()].concat());
        let instruments = self.instruments.cflags();
        if libraries.is_empty() && self.cflags.is_empty() && machine.is_empty() && instruments.is_empty() {
            return String::new();
        }
        format!("{libraries}{:?}{machine}{}", self.cflags, instruments.join(" "))
    }

    /// The words of all sources together.
    pub(super) fn words(&self) -> Words {
        let mut words = Words::default();
        for unit in &self.units {
            words.absorb(unit.reading.words());
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_compiler_has_its_own_for_cpp() {
        for (c, cpp) in [
            ("cc", "c++"),
            ("gcc-12", "g++-12"),
            ("/opt/gcc/bin/gcc", "/opt/gcc/bin/g++"),
            ("clang-15", "clang++-15"),
            ("/x/cc", "/x/c++"),
        ] {
            assert_eq!(cpp_program(c), cpp);
        }
    }
}
