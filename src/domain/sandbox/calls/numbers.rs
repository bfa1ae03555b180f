//! The filter by number: a search tree over the numbers of system calls.
//!
//! For a call that is granted with any arguments, the kernel runs such a filter once and caches the answer (Linux
//! 5.11). A listed call then costs nothing.

use super::list::{self, Call};
use crate::domain::sandbox::{Policy, SandboxError};
use seccompiler::sock_filter;
use std::collections::BTreeMap;

/// mseal(2), the newest system call that the lists consider (Linux 6.10). Calls as new as this one have the same number on
/// every architecture. The limit also excludes the x32 calls, whose numbers start at 2^30.
const LAST_KNOWN: u32 = 462;

// linux/bpf_common.h: load a word at an absolute offset; jump if greater or equal; return.
const LOAD: u16 = 0x20;
const JUMP_GREATER_EQUAL: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

/// The filter's return values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answers {
    /// For a call that is not granted.
    pub(super) refused: u32,
    /// For a call of [`list::UNKNOWN`], or one that is newer than the lists.
    pub(super) unknown: u32,
}

/// The numbers that `policy` grants, with or without conditions on their arguments.
pub(super) fn granted(policy: &Policy) -> Vec<i64> {
    let mut lists: Vec<&[Call]> = vec![list::GRANTED];
    lists.extend(list::GRANTED_HERE);
    if policy.exec_allowed {
        lists.push(list::PROGRAMS);
        lists.extend(list::PROGRAMS_HERE);
    }
    if policy.network {
        lists.push(list::NETWORK);
    }
    let sockets = policy.connects.then_some(libc::SYS_socket);
    let traced = policy.traces_itself.then_some(libc::SYS_ptrace);
    let waits = policy.starts_workers.then_some(libc::SYS_pidfd_open);
    let named = policy.calls.iter().filter_map(|name| list::number(name));
    lists.into_iter().flatten().map(|call| call.1).chain(sockets).chain(traced).chain(waits).chain(named).collect()
}

/// The filter that grants `granted` and returns the values of `answers` for all other calls.
///
/// # Errors
/// There are too many numbers for the filter's jumps.
pub(super) fn filter(granted: &[i64], answers: Answers) -> Result<Vec<sock_filter>, SandboxError> {
    let mut by_number: BTreeMap<u32, u32> = BTreeMap::new();
    by_number.extend(list::UNKNOWN.iter().map(|call| (call.1 as u32, answers.unknown)));
    by_number.extend(granted.iter().map(|&number| (number as u32, libc::SECCOMP_RET_ALLOW)));
    // The first number of each range, and its answer; a range ends before the next one.
    let mut pieces: Vec<(u32, u32)> = Vec::new();
    let mut begin = |at: u32, answer: u32| {
        if pieces.last().is_none_or(|last| last.1 != answer) {
            pieces.push((at, answer));
        }
    };
    for number in 0..=LAST_KNOWN {
        begin(number, by_number.get(&number).copied().unwrap_or(answers.refused));
    }
    begin(LAST_KNOWN + 1, answers.unknown);
    let mut program = vec![sock_filter { code: LOAD, jt: 0, jf: 0, k: 0 }];
    program.extend(tree(&pieces)?);
    Ok(program)
}

/// A program that finds the range of a number.
fn tree(pieces: &[(u32, u32)]) -> Result<Vec<sock_filter>, SandboxError> {
    let (below, from) = pieces.split_at(pieces.len() / 2);
    let Some(&(first, answer)) = from.first() else { return Ok(Vec::new()) };
    if below.is_empty() {
        return Ok(vec![sock_filter { code: RETURN, jt: 0, jf: 0, k: answer }]);
    }
    let (below, from) = (tree(below)?, tree(from)?);
    let jump = u8::try_from(below.len()).map_err(|_| SandboxError::Filter("it has too many numbers".to_owned()))?;
    let test = sock_filter { code: JUMP_GREATER_EQUAL, jt: jump, jf: 0, k: first };
    Ok([vec![test], below, from].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWERS: Answers = Answers { refused: 1, unknown: 2 };

    /// The program's answer for a number, computed like in the kernel.
    fn run(program: &[sock_filter], number: u32) -> u32 {
        let mut at = 1;
        loop {
            let step = &program[at];
            if step.code == RETURN {
                return step.k;
            }
            at += 1 + usize::from(if number >= step.k { step.jt } else { step.jf });
        }
    }

    #[test]
    fn each_number_finds_its_answer() {
        let policy = Policy { network: true, ..Policy::default() };
        for policy in [Policy { exec_allowed: true, ..policy.clone() }, policy, Policy::default()] {
            let granted = granted(&policy);
            let program = filter(&granted, ANSWERS).unwrap();
            for number in (0..=LAST_KNOWN + 100).chain([0x4000_0000, u32::MAX]) {
                let is_unknown = number > LAST_KNOWN || list::UNKNOWN.iter().any(|call| call.1 == i64::from(number));
                let expected = match granted.contains(&i64::from(number)) {
                    true => libc::SECCOMP_RET_ALLOW,
                    false if is_unknown => ANSWERS.unknown,
                    false => ANSWERS.refused,
                };
                assert_eq!(run(&program, number), expected, "{number}");
            }
        }
    }

    #[test]
    fn an_operator_grants_a_call_by_its_name() {
        let policy = Policy { calls: vec!["inotify_init1".to_owned(), "clone3".to_owned()], ..Policy::default() };
        let program = filter(&granted(&policy), ANSWERS).unwrap();
        assert_eq!(run(&program, libc::SYS_inotify_init1 as u32), libc::SECCOMP_RET_ALLOW);
        assert_eq!(run(&program, libc::SYS_clone3 as u32), libc::SECCOMP_RET_ALLOW);
        assert_eq!(run(&program, libc::SYS_inotify_add_watch as u32), ANSWERS.refused);
        assert_eq!(list::name(libc::SYS_memfd_secret), Some("memfd_secret"));
        assert_eq!(
            (list::number("openat"), list::number("SYS_openat"), list::number("nothing")),
            (Some(libc::SYS_openat), None, None)
        );
    }
}
