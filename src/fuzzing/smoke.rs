//! Runs the targets without a fuzzer: over their corpora, and over inputs mutated from them with a fixed seed.

use super::{Random, TARGETS, Target};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// Number of mutated inputs per target.
const MUTATED: usize = 20_000;
/// A target ends after this time, however many inputs it has had.
const TIME: Duration = Duration::from_secs(3);
const INPUT_BYTES_MAX: usize = 4096;

/// The corpus of target `name`: file names and contents, in the order of the names.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// The quoted words of libFuzzer's dictionaries.
fn dictionary(name: &str) -> Vec<Vec<u8>> {
    let file = match name {
        "job_json" => "json",
        "websocket" | "websocket_deflate" | "ring" | "domain_records" | "stream_records" => "ws",
        _ => "http",
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/dictionaries/{file}.dict"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let words = text.lines().filter(|line| !line.starts_with('#'));
    words.filter_map(|line| Some(unescape(line.split_once('"')?.1.strip_suffix('"')?))).collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, behind @ ..] = rest {
        (out, rest) = match (first, behind) {
            (b'\\', [b'x', high, low, behind @ ..]) => {
                let digits = String::from_utf8(vec![*high, *low]).unwrap();
                out.push(u8::from_str_radix(&digits, 16).unwrap());
                (out, behind)
            }
            (b'\\', [escaped, behind @ ..]) => {
                out.push(*escaped);
                (out, behind)
            }
            _ => {
                out.push(*first);
                (out, behind)
            }
        };
    }
    out
}

/// Makes one change to `input`, of the kinds that fuzzers make.
fn mutate(input: &mut Vec<u8>, random: &mut Random, seeds: &[(String, Vec<u8>)], words: &[Vec<u8>]) {
    let at = random.below(input.len() + 1);
    let end = (at + random.below(16)).min(input.len());
    match random.below(8) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.next() as u8,
        2 => drop(input.drain(at..end)),
        3 => {
            let again = input[at..end].to_vec();
            input.splice(at..at, again);
        }
        4 => input.truncate(at),
        5 => {
            let other = &seeds[random.below(seeds.len())].1;
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ if !words.is_empty() => {
            let word = words[random.below(words.len())].clone();
            // Replaces bytes, or inserts before them.
            let end = if random.below(2) == 0 { at } else { (at + word.len()).min(input.len()) };
            input.splice(at..end, word);
        }
        _ => input.push(random.next() as u8),
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn check(target: Target, what: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        panic!("{what} fails; its input, to be kept as a file of the corpus: b\"{}\"", input.escape_ascii());
    }
}

fn smoke(name: &str) {
    let target = TARGETS.iter().find(|(known, _)| *known == name).expect("a target").1;
    let (seeds, words) = (corpus(name), dictionary(name));
    assert!(!seeds.is_empty() && !words.is_empty());
    for (file, input) in &seeds {
        check(target, &format!("{name}/{file}"), input);
    }
    let mut random = Random::of(name.as_bytes());
    let start = Instant::now();
    for number in 0..MUTATED {
        if start.elapsed() > TIME {
            break;
        }
        let mut input = seeds[random.below(seeds.len())].1.clone();
        for _ in 0..=random.below(4) {
            mutate(&mut input, &mut random, &seeds, &words);
        }
        check(target, &format!("{name}, mutated input {number}"), &input);
    }
}

macro_rules! smoke_tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            smoke(stringify!($name));
        })*

        #[test]
        fn every_target_has_its_test_its_binary_and_its_corpus() {
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
            let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
            let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
            for name in names {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
                assert!(fuzz.join(format!("fuzz_targets/{name}.rs")).exists(), "{name}");
                let files = corpus(name);
                let bytes: usize = files.iter().map(|(_, content)| content.len()).sum();
                assert!(files.len() <= 40 && bytes <= 200 * 1024, "{name}: {} files, {bytes} bytes", files.len());
            }
        }
    };
}

smoke_tests!(
    request_head chunked_body multipart multipart_stream urlencoded websocket websocket_deflate job_json ring domain_records stream_records
    connection
);
