//! The modules that a key may deploy.

use crate::domain::DEFAULT_DOMAIN;
use std::sync::Arc;

/// A name, or a prefix of names if the text ends with `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(Box<str>);

impl Pattern {
    /// `None`: the text is empty, or has a `*` before its end.
    fn new(text: &str) -> Option<Self> {
        let beginning = text.strip_suffix('*').unwrap_or(text);
        (!text.is_empty() && !beginning.contains('*')).then(|| Self(text.into()))
    }

    fn fits(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => *self.0 == *name,
        }
    }
}

/// A set of modules: those that match a name, in one domain or in any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    domain: Option<Pattern>,
    module: Pattern,
}

impl Place {
    /// Reads `MODULE` or `DOMAIN/MODULE`; each part is a name, or a prefix followed by `*`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (domain, module) = match text.split_once('/') {
            Some((domain, module)) => (Some(Pattern::new(domain)?), module),
            None => (None, text),
        };
        // A module's name may contain a slash, but a pattern has a slash only after the domain.
        (!module.contains('/')).then_some(())?;
        Some(Self { domain, module: Pattern::new(module)? })
    }

    /// Whether the set has the module. `domain` is `None` if it is unknown; then a set that names a domain does not match.
    fn has(&self, domain: Option<&str>, module: &str) -> bool {
        let in_domain = |pattern: &Pattern| domain.is_some_and(|domain| pattern.fits(domain));
        self.module.fits(module) && self.domain.as_ref().is_none_or(in_domain)
    }
}

/// The modules that a key's owner may deploy, change and remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reach {
    /// All modules.
    #[default]
    All,
    /// Modules in one of these places.
    Only(Arc<[Place]>),
}

impl Reach {
    /// Whether the module `module` in the domain `domain` is within reach; `None`: the domain is unknown.
    #[must_use]
    pub fn has(&self, domain: Option<&str>, module: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(places) => places.iter().any(|place| place.has(domain, module)),
        }
    }

    /// Whether the module `module` may be deployed into `domain`; `there` is the domain of a deployed module. A place
    /// without a domain leaves a module in its domain, and a new module in the default domain, because all modules of a
    /// domain can reach each other's secrets.
    #[must_use]
    pub fn may_install(&self, module: &str, there: Option<&str>, domain: &str) -> bool {
        let may = |place: &Place| match &place.domain {
            Some(_) => there.into_iter().chain([domain]).all(|domain| place.has(Some(domain), module)),
            None => place.has(None, module) && domain == there.unwrap_or(DEFAULT_DOMAIN),
        };
        match self {
            Self::All => true,
            Self::Only(places) => places.iter().any(may),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_names_and_beginnings_of_names() {
        let has = |text: &str, domain: Option<&str>, module: &str| {
            Reach::Only([Place::parse(text).unwrap()].into()).has(domain, module)
        };
        assert!(has("thumbs", None, "thumbs") && has("thumbs", Some("image"), "thumbs"));
        assert!(!has("thumbs", None, "thumbs2") && !has("thumbs", None, "Thumbs"));
        assert!(has("image/*", Some("image"), "any") && !has("image/*", Some("images"), "any"));
        assert!(!has("image/*", None, "any"), "an unknown domain is outside the key's domains");
        assert!(has("im*/th*", Some("image"), "thumbs") && !has("im*/th*", Some("image"), "other"));
        assert!(has("*", None, "any") && Reach::All.has(None, "any"));
        let may = |text: &str, there: Option<&str>, domain: &str| {
            Reach::Only([Place::parse(text).unwrap()].into()).may_install("shop", there, domain)
        };
        assert!(may("shop", None, "default") && may("shop", Some("image"), "image"));
        assert!(
            !may("shop", None, "image")
                && !may("shop", Some("default"), "image")
                && !may("shop", Some("image"), "default")
        );
        assert!(may("image/*", None, "image") && !may("image/*", Some("default"), "image"));
        for text in ["", "/", "a/", "/a", "a*b", "*a", "a/b/c", "**"] {
            assert_eq!(Place::parse(text), None, "{text}");
        }
    }
}
