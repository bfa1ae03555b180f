//! Settings of a module, as its code reads them: `cweb_setting`.
//!
//! A returned text keeps its address while the module is loaded, even when the setting is changed, because handlers may hold
//! the pointer. Reading takes no lock.

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Settings and secrets by name. A secret must never be shown: `Debug` shows the names only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings(pub BTreeMap<String, String>);

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The settings of one loaded module.
#[derive(Default)]
pub struct Kept {
    current: ArcSwap<HashMap<Vec<u8>, Arc<CString>>>,
    /// Every text to which the module may have a pointer, each once.
    all: Mutex<HashMap<Vec<u8>, Arc<CString>>>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

impl Kept {
    /// Replaces the settings that the module reads by `settings`. A text ends at its first NUL.
    pub(super) fn set(&self, settings: &Settings) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keep = |text: &str| {
            let bytes = text.split('\0').next().unwrap_or_default().as_bytes().to_vec();
            // The bytes have no NUL, so this does not fail.
            let made = || Arc::new(CString::new(bytes.clone()).unwrap_or_default());
            Arc::clone(all.entry(bytes.clone()).or_insert_with(made))
        };
        let texts = settings.0.iter().map(|(key, value)| (key.as_bytes().to_vec(), keep(value))).collect();
        self.current.store(Arc::new(texts));
    }

    /// The value of `key`; NULL if there is none. The text lives as long as `self`.
    pub(super) fn get(&self, key: &CStr) -> *const c_char {
        self.current.load().get(key.to_bytes()).map_or(std::ptr::null(), |text| text.as_ptr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_text_stays_when_the_setting_changes() {
        let kept = Kept::default();
        assert!(kept.get(c"A").is_null());
        kept.set(&settings(&[("A", "one"), ("B", "x\0y")]));
        let (first, cut) = (kept.get(c"A"), kept.get(c"B"));
        kept.set(&settings(&[("A", "two")]));
        // SAFETY: the texts live as long as `kept`.
        let texts = unsafe { [first, cut, kept.get(c"A")].map(|text| CStr::from_ptr(text).to_str().unwrap()) };
        assert_eq!(texts, ["one", "x", "two"]);
        assert!(kept.get(c"B").is_null());
        kept.set(&settings(&[("A", "one")]));
        assert_eq!(kept.get(c"A"), first, "a text is kept once, however often it is set");
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", settings(&[("TOKEN", "s3cret")]));
        assert!(shown.contains("TOKEN") && !shown.contains("s3cret"), "{shown}");
    }
}
