//! Single-file apps for nope.c and WAFer.

use super::{Dialect, Recipe};
use crate::module::deploy::SourceFields;

/// The fields of the form that an app's name and place come from.
pub(super) fn relevant(_fields: &SourceFields) -> SourceFields {
    SourceFields::default()
}

pub(super) fn recipe(_fields: &SourceFields) -> Result<Recipe, String> {
    Ok(Recipe {
        dialect: Dialect::Wafer,
        include: &[],
        flags: vec!["-DCWEB_MODULE_API=4".to_owned()],
        epilogue: "\n\n#include <cweb_host.h>\n".to_owned(),
        libraries: Vec::new(),
    })
}
