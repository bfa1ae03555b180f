use super::super::passing;
use super::*;

#[test]
fn a_question_that_can_not_be_sent_is_answered_at_once() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let parent = Parent {
        stream: Mutex::new(ours),
        message_bytes_max: 1000,
        waiting: Mutex::default(),
        next: AtomicU64::new(1),
        numbers: Mutex::default(),
        runs: Mutex::default(),
        files: HandedFiles::new(passing::pair().unwrap().0),
    };
    drop(theirs);
    let answer = parent.ask(Question::Resume { run: 1 }).unwrap_err();
    assert!(answer.contains("can't be asked"), "{answer}");
    assert!(lock(&parent.waiting).is_empty(), "and nothing waits for ever");
}
