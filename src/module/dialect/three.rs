//! Modules of today: `<cweb.h>` and handlers with a context.

use super::lexer::Words;
use super::{Dialect, Recipe};

pub(super) fn recipe(words: &Words) -> Recipe {
    // A source with other headers of the SDK gets what the loader looks for, and what `--wrap` refers to.
    let needs_host = !words.includes("cweb.h") && super::includes_sdk(words);
    let epilogue = if needs_host { "\n\n#include <cweb_host.h>\n" } else { "" };
    Recipe {
        dialect: Dialect::ThreeArguments,
        include: &[],
        flags: super::strict(),
        epilogue: epilogue.to_owned(),
        sources: &[],
        libraries: Vec::new(),
    }
}
