//! Users that domains run as.

use std::str::FromStr;

/// A range of user ids for domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct UserRange {
    /// The first user id.
    pub first: u32,
    /// The last user id.
    pub last: u32,
}

impl UserRange {
    /// The number of users.
    #[must_use]
    pub fn count(self) -> u64 {
        u64::from(self.last - self.first) + 1
    }
}

impl FromStr for UserRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        // The kernel takes the largest number as "no change", and 0 is root.
        let numbers = numbers.filter(|(first, last)| (1..=*last).contains(first) && *last < u32::MAX);
        let (first, last) = numbers
            .ok_or_else(|| format!("\"{text}\" is not a range of users: write FIRST-LAST, such as 70000-70099"))?;
        Ok(Self { first, last })
    }
}

impl TryFrom<String> for UserRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
