//! The option that names the key with which sources are signed.

use crate::module::signing::SigningKey;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Default, Args)]
pub(super) struct SignArgs {
    /// Sign the sources with this key, made by cweb keygen --signing
    #[arg(long, env = "CWEB_SIGNING_KEY", value_name = "FILE")]
    sign: Option<PathBuf>,
}

impl SignArgs {
    /// The key, if one is named; an empty CWEB_SIGNING_KEY counts as unset.
    ///
    /// # Errors
    /// A text for users: the file is not a signing key.
    pub(super) fn key(&self) -> Result<Option<SigningKey>, String> {
        self.sign.as_deref().filter(|path| !path.as_os_str().is_empty()).map(SigningKey::read).transpose()
    }
}
