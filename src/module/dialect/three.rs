//! Modules of today: `<cweb.h>` and handlers with a context.

use super::lexer::Words;
use super::{Dialect, Recipe};

/// A module in C++: the compiler takes no undeclared function and no function of another type anyway.
pub(super) fn recipe_of_cpp(words: &Words) -> Recipe {
    let mut recipe = recipe(words);
    // A symbol that is unique in the process would keep the module's code there after it was replaced.
    recipe.flags = ["-fno-gnu-unique", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"].map(str::to_owned).to_vec();
    recipe
}

pub(super) fn recipe(words: &Words) -> Recipe {
    // A source with other headers of the SDK gets what the loader looks for, and what `--wrap` refers to.
    let needs_host = !words.includes("cweb.h") && super::includes_sdk(words);
    let epilogue = if needs_host { "\n\n#include <cweb_host.h>\n" } else { "" };
    let mut flags = super::strict();
    flags.extend(super::checked_copies(words));
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

/// Whether the source is from the days when `cweb_uuid_t` was called `uuid_t`, and has no type of that name of its own.
fn has_first_uuid(words: &Words) -> bool {
    let takes_one = ["jobs_create", "uuid_clear", "uuid_from_string", "uuid_is_valid", "uuid_equal", "uuid_c_str"];
    words.has("uuid_t") && !words.has("cweb_uuid_t") && takes_one.iter().any(|function| words.has(function))
}
