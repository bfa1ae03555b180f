//! Tests of the lists and pages of every engine.

use super::*;
use crate::jobs::blobs::MadeFile;
use std::sync::atomic::{AtomicUsize, Ordering};

fn filter() -> JobFilter {
    JobFilter { limit: 100, ..JobFilter::default() }
}

fn uuids(rows: &[JobRow]) -> Vec<&str> {
    rows.iter().map(|row| &*row.uuid).collect()
}

pub(super) fn lists_are_newest_first_and_filtered<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let first = fixture.add("a");
    fixture.submit(NewJob { module: "blog".to_owned(), ..new_job("b") }).unwrap();
    fixture.submit(NewJob { job: "bill".to_owned(), ..new_job("c") }).unwrap();
    fixture.change(first, Change::Cancel);
    let mut reader = fixture.reader();
    let mut list = |filter: JobFilter| uuids(&reader.jobs(&filter, usize::MAX).unwrap()).join(" ");
    let (shop, mail) = (Some("shop".to_owned()), Some("mail".to_owned()));
    assert_eq!(list(filter()), "c b a");
    assert_eq!(list(JobFilter { state: Some(JobState::Pending), ..filter() }), "c b");
    assert_eq!(list(JobFilter { module: shop.clone(), ..filter() }), "c a");
    assert_eq!(list(JobFilter { module: shop, job: mail.clone(), ..filter() }), "a");
    assert_eq!(list(JobFilter { state: Some(JobState::Pending), job: mail, ..filter() }), "b");
    assert_eq!(list(JobFilter { state: Some(JobState::Done), ..filter() }), "");
    assert_eq!(list(JobFilter { limit: 1, ..filter() }), "c");
}

pub(super) fn pages_follow_each_other_while_jobs_come_in<S: Subject>() {
    let fixture = Fixture::<S>::new();
    for n in 0..5 {
        fixture.add(&n.to_string());
    }
    let mut reader = fixture.reader();
    let mut page = |before: Option<&str>| {
        let rows =
            reader.jobs(&JobFilter { limit: 2, before: before.map(Into::into), ..filter() }, usize::MAX).unwrap();
        uuids(&rows).join(" ")
    };
    assert_eq!(page(None), "4 3");
    fixture.add("5");
    assert_eq!(page(Some("3")), "2 1");
    assert_eq!(page(Some("1")), "0");
    assert_eq!(page(Some("0")), "");
    assert_eq!(page(Some("never was")), "");
}

pub(super) fn events_and_unfinished_jobs_page_by_id<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let (a, b) = (fixture.add("a"), fixture.add("b"));
    fixture.change(a, Change::Start { retries: 0 });
    fixture.event(a, "a", "step");
    fixture.change(a, finish(JobState::Done));
    let mut reader = fixture.reader();
    let events = reader.events(a, 0, 2, usize::MAX).unwrap();
    assert_eq!(kinds(&events), ["created", "started"]);
    let rest = reader.events(a, events[1].id, 10, usize::MAX).unwrap();
    assert_eq!(kinds(&rest), ["step", "done"]);
    assert!(reader.events(a, rest[1].id, 10, usize::MAX).unwrap().is_empty());
    assert!(reader.events(77, 0, 10, 1).unwrap().is_empty());
    assert_eq!(uuids(&reader.unfinished(0, 10).unwrap()), ["b"]);
    assert!(reader.unfinished(b, 10).unwrap().is_empty());
}

pub(super) fn a_reader_sees_what_came_after_it<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let mut reader = fixture.reader();
    assert_eq!(reader.job("a").unwrap(), None);
    fixture.add("a");
    assert!(reader.job("a").unwrap().is_some());
}

pub(super) fn the_feed_has_all_events_in_the_order_of_the_commits<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let mut reader = fixture.reader();
    let start = reader.feed(&FeedFilter::default(), -1, 9, usize::MAX).unwrap();
    assert_eq!((start.read_to, start.at_end), (0, true));
    let (a, b) = (fixture.add("a"), fixture.add_job(NewJob { module: "blog".to_owned(), ..new_job("b") }));
    fixture.start(b);
    fixture.start(a);
    fixture.event(b, "b", "step");
    fixture.change(a, finish(JobState::Done));
    fixture.change(b, finish(JobState::Failed));
    let all = reader.feed(&FeedFilter::default(), 0, 99, usize::MAX).unwrap();
    assert_eq!((all.read_to, all.at_end), (7, true));
    assert!(all.events.iter().map(|(event, ..)| event).eq(&fixture.published()));
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = reader.feed(&FeedFilter::default(), after, 2, usize::MAX).unwrap();
        assert!(page.events.len() <= 2 && page.read_to > after || page.at_end);
        (after, _) = (page.read_to, seen.extend(page.events));
        if page.at_end {
            break;
        }
    }
    assert_eq!((seen, after), (all.events, 7));
    let of = |module: Option<&str>, state| FeedFilter { module: module.map(str::to_owned), state };
    let mut ids = |filter: FeedFilter| -> Vec<i64> {
        let page = reader.feed(&filter, 0, 99, usize::MAX).unwrap();
        assert_eq!(page.read_to, 7);
        page.events.iter().map(|(event, ..)| event.id).collect()
    };
    assert_eq!(ids(of(Some("blog"), None)), [2, 3, 5, 7]);
    assert_eq!(ids(of(None, Some(JobState::Done))), [6]);
    assert!(ids(of(Some("blog"), Some(JobState::Done))).is_empty());
    // Events of deleted jobs are gone, and their numbers are not used again.
    assert_eq!(ask(|done| fixture.writer().try_delete("b".to_owned(), done)), Ok(Deleted::Done));
    assert_eq!(ids(FeedFilter::default()), [1, 4, 6]);
    let beyond = fixture.reader().feed(&FeedFilter::default(), 70, 9, usize::MAX).unwrap();
    assert_eq!((beyond.read_to, beyond.at_end, beyond.events.len()), (70, true, 0));
    assert_eq!((reader.event_count(a).unwrap(), reader.event_count(b).unwrap()), (3, 0));
}

pub(super) fn files_and_checkpoints_belong_to_their_job<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let (mut reader, writer) = (fixture.reader(), fixture.writer());
    let given = || vec![("in".to_owned(), "sha256:1".to_owned())];
    let id = fixture.add_job(NewJob { files: given(), ..new_job("a") });
    let run = Run { job: id, attempt: 1 };
    let save = |bytes: &[u8]| ask(|done| writer.checkpoint(run, "a".into(), bytes.to_vec(), done)).unwrap();
    let made = |dir: &str, names: &[&str]| {
        let files = names.iter().map(|name| MadeFile { name: (*name).to_owned(), bytes: 5 }).collect();
        ask(|done| writer.made(run, "a".into(), dir.to_owned(), files, done)).unwrap()
    };
    assert!(!save(b"early") && !made("early", &["x"]));
    fixture.start(id);
    assert!(save(b"one") && save(b"two"));
    assert_eq!(reader.checkpoint(id).unwrap(), Some(b"two".to_vec()));
    assert!(save(b""));
    assert_eq!(reader.checkpoint(id).unwrap(), None);
    assert!(save(b"three") && made("first", &["x", "y"]) && made("second", &["z"]));
    let blob = event_blob("sha256:2");
    writer.event_with_blob(run, "a".into(), "step".into(), "1".into(), blob).unwrap();
    let before = reader.files("a").unwrap().unwrap();
    assert_eq!((before.state, before.given, before.made), (JobState::Running, given(), vec![]));
    assert_eq!(reader.output_dir("a", "z").unwrap(), None, "only a job that is done has outputs");
    assert_eq!(fixture.change(id, finish(JobState::Done)), Changed::Applied(JobState::Done));
    assert!(!save(b"late"));
    assert_eq!(reader.checkpoint(id).unwrap(), None, "a job that is done needs none");
    assert_eq!(reader.files("a").unwrap().unwrap().made, [MadeFile { name: "z".to_owned(), bytes: 5 }]);
    assert_eq!(reader.output_dir("a", "z").unwrap().as_deref(), Some("second"));
    assert_eq!(reader.output_dirs().unwrap().into_iter().collect::<Vec<_>>(), ["second"]);
    assert_eq!(reader.gone_dirs(9).unwrap(), ["first"]);
    let mut needed = || ["sha256:1", "sha256:2", "sha256:3"].map(|blob| reader.is_blob_needed(blob).unwrap());
    assert_eq!(needed(), [true, true, false]);
    assert_eq!(ask(|done| writer.try_delete("a".to_owned(), done)), Ok(Deleted::Done));
    assert_eq!(needed(), [false, false, false]);
    assert_eq!((reader.gone_dirs(1).unwrap().len(), reader.gone_dirs(9).unwrap().len()), (1, 2));
    writer.forget_dirs(vec!["first".to_owned(), "second".to_owned()]).unwrap();
    fixture.settle();
    assert_eq!((reader.gone_dirs(9).unwrap().len(), reader.files("a").unwrap()), (0, None));
}

pub(super) fn modules_see_the_rows_of_their_jobs<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let a = fixture.add("a");
    fixture.add_job(NewJob { module: "blog".to_owned(), payload: "[1]".to_owned(), ..new_job("b") });
    fixture.start(a);
    let mut reader = fixture.reader();
    let columns = u64::MAX;
    let all = TableQuery { table: Table::Jobs, equal: None, after: 0, before: i64::MAX, columns, descending: false };
    let mut page = |query: &TableQuery, modules: Option<&[String]>| reader.page(query, modules).unwrap();
    let text = page(&TableQuery { equal: Some((1, Key::Text("b".to_owned()))), ..all.clone() }, None);
    assert!(text.starts_with("ei2;t1:bt4:blogt4:mailt7:pendingt3:abc"), "{text}");
    assert!(text.ends_with("t3:[1]nni0;i3;i10;i9223372036854775807;i5;i-1;n"), "{text}");
    // Of the columns that are not read, a page has the id only.
    let job_and_payload = TableQuery { columns: (1 << 3) | (1 << 8), after: 1, ..all.clone() };
    assert_eq!(page(&job_and_payload, None), "ei2;uut4:mailuuuut3:[1]uuuuuuuuu");
    let events = TableQuery { table: Table::Events, ..all.clone() };
    let shop = ["shop".to_owned()];
    let first = |text: &str| text.split(';').next().unwrap().to_owned();
    assert_eq!(first(&page(&TableQuery { descending: true, ..all.clone() }, None)), "ei2");
    assert_eq!(first(&page(&TableQuery { descending: true, ..all.clone() }, Some(&shop))), "ei1");
    assert_eq!(page(&TableQuery { after: 2, ..all.clone() }, None), "e");
    assert_eq!(page(&TableQuery { before: 2, ..all.clone() }, Some(&["blog".to_owned()])), "e");
    assert_eq!(first(&page(&TableQuery { descending: true, ..events.clone() }, Some(&shop))), "ei3");
    let of_b = TableQuery { equal: Some((1, Key::Number(2))), columns: 0, ..events };
    assert_eq!(page(&of_b, None), "ei2;uuuuu");
    let whole = page(&TableQuery { columns: u64::MAX, ..of_b.clone() }, None);
    assert!(whole.starts_with("ei2;i2;i") && whole.contains("t7:created") && whole.ends_with("i0;"), "{whole}");
    assert_eq!(page(&of_b, Some(&shop)), "e");
}

pub(super) fn no_page_waits_for_another_and_readers_are_used_again<S: Subject>() {
    let fixture = Fixture::<S>::new();
    fixture.add("a");
    let (readers, opened) = (Mutex::new(vec![fixture.reader(), fixture.reader()]), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&opened);
    let tables = Tables::new(Box::new(move || {
        let reader = readers.lock().unwrap().pop().ok_or(StoreError::Closed)?;
        count.fetch_add(1, Ordering::SeqCst);
        wait_for("the page of another thread begins", || count.load(Ordering::SeqCst) == 2);
        Ok(Box::new(reader))
    }));
    let ids = TableQuery { table: Table::Jobs, equal: None, after: 0, before: 9, columns: 1, descending: false };
    std::thread::scope(|scope| {
        let read = || assert!(tables.page(&ids, None).unwrap().starts_with("ei1;"));
        scope.spawn(read);
        scope.spawn(read);
    });
    // There is no third reader, so these pages use the two that are open.
    for _ in 0..20 {
        assert!(tables.page(&ids, None).unwrap().starts_with("ei1;"));
    }
    fixture.add("b");
    assert!(tables.page(&TableQuery { after: 1, ..ids }, None).unwrap().starts_with("ei2;"));
    assert_eq!(opened.load(Ordering::SeqCst), 2);
}
