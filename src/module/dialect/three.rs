//! Present modules: `<cweb.h>` and handlers with a context.

use super::lexer::Words;
use super::recipe::{Dialect, Recipe, checked_copies, includes_sdk, strict};

/// The recipe of a module in C++. The language itself refuses undeclared functions and functions of another type.
pub(super) fn recipe_of_cpp(words: &Words) -> Recipe {
    let mut recipe = recipe(words);
    // A symbol that is unique in the process (`STB_GNU_UNIQUE`) would keep the module's code loaded after its replacement.
    recipe.flags = ["-fno-gnu-unique", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"].map(str::to_owned).to_vec();
    recipe
}

pub(super) fn recipe(words: &Words) -> Recipe {
    // A source with other headers of the SDK needs the symbols that the loader looks for and the targets of `--wrap`.
    let needs_host = !words.includes("cweb.h") && includes_sdk(words);
    let epilogue = if needs_host { "\n\n#include <cweb_host.h>\n" } else { "" };
    let mut flags = strict();
    flags.extend(checked_copies(words));
    if has_first_uuid(words) {
        flags.push("-DCWEB_UUID_T".to_owned());
    }
    Recipe {
        dialect: Dialect::ThreeArguments,
        include: &[],
        flags,
        epilogue: epilogue.to_owned(),
        sources: &[],
        libraries: Vec::new(),
    }
}

/// Whether the source uses `uuid_t`, the former name of `cweb_uuid_t`, and defines no type of that name.
fn has_first_uuid(words: &Words) -> bool {
    let takes_one = ["jobs_create", "uuid_clear", "uuid_from_string", "uuid_is_valid", "uuid_equal", "uuid_c_str"];
    words.has("uuid_t") && !words.has("cweb_uuid_t") && takes_one.iter().any(|function| words.has(function))
}
