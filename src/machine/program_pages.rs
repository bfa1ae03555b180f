//! The parts of programs and libraries in this process that the kernel can read from their files again.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::Range;

/// The list of this process's mappings. It stays readable after the process has lost the right to open files of `/proc`.
#[derive(Debug)]
pub struct ProgramMappings(File);

impl ProgramMappings {
    /// Opens the list.
    ///
    /// # Errors
    /// `/proc` can't be read.
    pub fn open() -> io::Result<Self> {
        File::open("/proc/self/smaps").map(Self)
    }

    /// The addresses of the present mappings of files that this process can't write and of which it has no page of its own. A
    /// page of theirs that is dropped comes back from the file, unchanged. None if the list can't be read.
    #[must_use]
    pub fn clean(&self) -> Vec<Range<usize>> {
        let (mut list, mut text) = (&self.0, String::new());
        match list.rewind().and_then(|()| list.read_to_string(&mut text)) {
            Ok(_) => clean(&text),
            Err(_) => Vec::new(),
        }
    }
}

/// The clean mappings in the text of a `smaps` file (proc_pid_smaps(5)).
fn clean(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut mapping = None;
    let mut is_clean = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some(field) = first.strip_suffix(':') {
            // Pages that were written have no file: those that a debugger has changed, for example.
            is_clean &= !matches!(field, "Anonymous" | "Swap") || words.next() == Some("0");
            continue;
        }
        found.extend(mapping.take().filter(|_| is_clean));
        let (access, path) = (words.next().unwrap_or_default(), words.nth(3).unwrap_or_default());
        is_clean = access.starts_with("r-") && access.ends_with('p') && path.starts_with('/');
        mapping = addresses(first);
    }
    found.extend(mapping.filter(|_| is_clean));
    found
}

/// The addresses in `start-end`, hexadecimal numbers.
fn addresses(text: &str) -> Option<Range<usize>> {
    let (start, end) = text.split_once('-')?;
    let number = |digits| usize::from_str_radix(digits, 16).ok();
    Some(number(start)?..number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(head: &str, anonymous: &str, swap: &str) -> String {
        format!("{head}\nSize: 8 kB\nRss: 8 kB\nAnonymous: {anonymous} kB\nSwap: {swap} kB\nVmFlags: rd ex mr mw\n")
    }

    #[test]
    fn only_clean_parts_of_files_count() {
        let smaps = [
            mapping("1000-3000 r-xp 00000000 fe:00 77   /usr/bin/a program", "0", "0"),
            mapping("3000-4000 r--p 00002000 fe:00 77   /usr/bin/a program", "0", "0"),
            mapping("4000-5000 r-xp 00003000 fe:00 77   /usr/bin/changed", "4", "0"),
            mapping("5000-6000 r-xp 00003000 fe:00 77   /usr/bin/swapped", "0", "4"),
            mapping("6000-7000 rw-p 00003000 fe:00 77   /usr/bin/data", "0", "0"),
            mapping("7000-8000 r--s 00003000 fe:00 77   /usr/bin/shared", "0", "0"),
            mapping("8000-9000 ---p 00003000 fe:00 77   /usr/bin/guard", "0", "0"),
            mapping("9000-a000 r-xp 00000000 00:00 0    [vdso]", "0", "0"),
            mapping("a000-b000 r--p 00000000 00:00 0", "0", "0"),
            mapping("7f00-8f00 r--p 00000000 fe:00 78   /usr/lib/last.so", "0", "0"),
        ];
        assert_eq!(clean(&smaps.concat()), [0x1000..0x3000, 0x3000..0x4000, 0x7f00..0x8f00]);
        assert!(clean("").is_empty() && clean("no mapping\nat all").is_empty());
    }

    #[test]
    fn this_function_is_in_such_a_mapping() {
        let at = clean as fn(&str) -> Vec<Range<usize>> as usize;
        let list = ProgramMappings::open().unwrap();
        for _ in 0..2 {
            assert!(list.clean().iter().any(|mapping| mapping.contains(&at)));
        }
    }
}
