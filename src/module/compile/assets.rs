//! Assets of a project: files that become read-only data of the shared object; `cweb_asset` finds them.

use super::super::project::Project;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

/// The directory of the assets in the scratch directory.
const DIR: &str = ".cweb/assets";
/// The generated source that includes the assets.
pub(super) const SOURCE: &str = ".cweb/assets.c";
/// The object file of [`SOURCE`].
pub(super) const OBJECT: &str = ".cweb/assets.o";

/// Writes the assets and the generated source below `dir`.
pub(super) fn write(project: &Project, dir: &Path) -> io::Result<()> {
    let paths = project.assets();
    fs::create_dir_all(dir.join(DIR))?;
    let mut text = String::from("#include <cweb_asset.h>\n");
    let mut table = String::new();
    for (number, path) in paths.iter().enumerate() {
        let bytes = project.files.get(*path).map(Vec::as_slice).unwrap_or_default();
        fs::write(dir.join(DIR).join(number.to_string()), bytes)?;
        // Writing to a String can't fail. A NUL follows each asset, so that a text is a C string.
        let _ = write!(
            text,
            "extern const unsigned char cweb_a{number}[] __attribute__((visibility(\"hidden\")));\n\
             __asm__(\".pushsection .rodata\\n.balign 16\\n.hidden cweb_a{number}\\n.globl cweb_a{number}\\ncweb_a{number}:\\n\
             .incbin \\\"{DIR}/{number}\\\"\\n.byte 0\\n.popsection\\n\");\n"
        );
        // The path was checked: it has neither quotes nor backslashes.
        let name = path.strip_prefix("assets/").unwrap_or(path);
        let _ = writeln!(table, "    {{\"{name}\", cweb_a{number}, {}}},", bytes.len());
    }
    let _ = write!(text, "const struct cweb_asset_entry cweb_asset_table[] = {{\n{table}    {{0, 0, 0}},\n}};\n");
    fs::write(dir.join(SOURCE), text)
}
