//! Records survive a round trip, and invalid ones are refused.

use super::*;
use crate::proto::http1::Head;
use proptest::prelude::*;

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..max)
}

proptest! {
    #[test]
    fn requests_come_back(ticket: u64, instance: u64, route: u32, short: bool, peer: Option<IpAddr>, head in bytes(40), body in bytes(40)) {
        let (mut record, known) = (Vec::new(), Head::default());
        let view = RequestView { head: &known, bytes: &head, body: &[], shared: None, peer };
        let head = view.packed();
        request_head(&mut record, ticket, (instance, route), short, &view);
        record.extend_from_slice(&body);
        let read = ToDomain::read(&record).unwrap();
        prop_assert_eq!(read, ToDomain::Request { ticket, instance, route, short, peer, head: &head, body: Body::Here(&body) });
        let place = ExtentRange { offset: ticket, bytes: instance };
        record.truncate(record.len() - body.len());
        lend(&mut record, place);
        let read = ToDomain::read(&record).unwrap();
        prop_assert_eq!(read, ToDomain::Request { ticket, instance, route, short, peer, head: &head, body: Body::Lent(place) });
    }

    #[test]
    fn answers_come_back(
        ticket: u64, ran_us: u32, status in 200..600_u16,
        fields in proptest::collection::vec((bytes(10), bytes(10)), 0..5), body in bytes(40),
    ) {
        let mut record = Vec::new();
        let pairs = fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        answer_head(&mut record, ticket, ran_us, status, pairs.clone());
        record.extend_from_slice(&body);
        let Ok(ToServer::Answer { headers, body: read, .. }) = ToServer::read(&record) else { panic!() };
        prop_assert_eq!(headers.iter().collect::<Vec<_>>(), pairs.clone().collect::<Vec<_>>());
        prop_assert_eq!(read, Body::Here(&body));
        record.truncate(record.len() - body.len());
        let place = ExtentRange { offset: 7, bytes: ticket };
        lend(&mut record, place);
        set_ran_us(&mut record, 99);
        let Ok(ToServer::Answer { headers, ran_us: 99, body: read, .. }) = ToServer::read(&record) else { panic!() };
        prop_assert_eq!(headers.iter().collect::<Vec<_>>(), pairs.collect::<Vec<_>>());
        prop_assert_eq!(read, Body::Lent(place));
        record.push(0);
        prop_assert!(ToServer::read(&record).is_err());
    }

    #[test]
    fn rooms_come_back(key: u64, name in bytes(9), frame in bytes(30), joins: bool) {
        let mut record = Vec::new();
        room(&mut record, key, &name, joins);
        prop_assert_eq!(ToServer::read(&record), Ok(ToServer::Room { key, room: &name, joins }));
        let mut record = Vec::new();
        publish_head(&mut record, key, &name);
        let fixed = record.len();
        record.extend_from_slice(&frame);
        prop_assert_eq!(ToServer::read(&record), Ok(ToServer::Publish { plain_bytes: key, room: &name, frame: Body::Here(&frame) }));
        record.truncate(fixed);
        let place = ExtentRange { offset: key, bytes: 7 };
        lend(&mut record, place);
        prop_assert_eq!(ToServer::read(&record), Ok(ToServer::Publish { plain_bytes: key, room: &name, frame: Body::Lent(place) }));
    }

    #[test]
    fn socket_events_come_back(ticket: u64, key: u64, session in proptest::option::of(bytes(9)), text in bytes(30)) {
        let session = session.as_deref();
        let deflate = Deflate::with_window((8 + key % 8) as u8);
        let with_nul = [&text[..], &[0]].concat();
        let events = [
            Event::Open { session, number: key, deflate: None, peer: None, head: &text },
            Event::Open { session, number: 1, deflate, peer: Some(IpAddr::from([7; 4])), head: b"" },
            Event::Known { session, number: 7, deflate, last: Kind::Binary },
            Event::Message { kind: Kind::Text, deflated: false, with_nul: &with_nul },
            Event::Message { kind: Kind::Binary, deflated: true, with_nul: &with_nul },
            Event::Placed { kind: Kind::Binary, place: ExtentRange { offset: key, bytes: ticket } },
            Event::Close { gone: key % 2 == 0 },
            Event::Forget,
        ];
        let mut record = Vec::new();
        socket_head(&mut record, ticket, 1, 2, true, key);
        events.iter().for_each(|event| push_event(&mut record, event));
        let Ok(ToDomain::Socket { events: read, .. }) = ToDomain::read(&record) else { panic!() };
        let Body::Here(read) = read else { panic!() };
        prop_assert_eq!(read_events(read).unwrap(), events);
        let (mut head, place) = (Vec::new(), ExtentRange { offset: key, bytes: ticket });
        socket_head(&mut head, ticket, 1, 2, true, key);
        lend(&mut head, place);
        let Ok(ToDomain::Socket { events: read, .. }) = ToDomain::read(&head) else { panic!() };
        prop_assert_eq!(read, Body::Lent(place));
    }

    #[test]
    fn what_is_buffered_comes_back(key: u64, taken: u64, unsent: u64) {
        let mut record = Vec::new();
        buffered(&mut record, key, taken, unsent);
        prop_assert_eq!(ToDomain::read(&record), Ok(ToDomain::Buffered { key, taken, unsent }));
        prop_assert!(ToDomain::read(&record[..24]).is_err());
    }

    #[test]
    fn frames_come_back(key: u64, frame in bytes(40)) {
        let mut record = Vec::new();
        send_head(&mut record, key);
        let head = record.clone();
        record.extend_from_slice(&frame);
        prop_assert_eq!(ToServer::read(&record), Ok(ToServer::Send { key, frame: Body::Here(&frame) }));
        let (mut record, place) = (head, ExtentRange { offset: 1, bytes: key });
        lend(&mut record, place);
        prop_assert_eq!(ToServer::read(&record), Ok(ToServer::Send { key, frame: Body::Lent(place) }));
    }

    #[test]
    fn any_bytes_are_a_record_or_refused(bytes in bytes(80)) {
        if let Ok(ToServer::Answer { headers, .. }) = ToServer::read(&bytes) {
            headers.iter().for_each(|(name, value)| assert!(name.len() + value.len() <= bytes.len()));
        }
        let _ = ToDomain::read(&bytes);
        let _ = read_events(&bytes);
    }
}

#[test]
fn what_is_cut_or_out_of_range_is_refused() {
    let mut record = Vec::new();
    answer_head(&mut record, 1, 2, 200, [(b"a".as_slice(), b"b".as_slice())].into_iter());
    for end in 0..record.len() {
        assert!(ToServer::read(&record[..end]).is_err(), "{end}");
    }
    let mut record = Vec::new();
    returned(&mut record, 7);
    assert_eq!(ToServer::read(&record), Ok(ToServer::Returned { ticket: 7 }));
    let mut record = Vec::new();
    waits(&mut record, 9);
    assert_eq!(ToServer::read(&record), Ok(ToServer::Waits { ticket: 9 }));
    let mut record = Vec::new();
    turn(&mut record, 8);
    assert_eq!(ToServer::read(&record), Ok(ToServer::Turn { ticket: 8 }));
    for status in [0, 101, 199, 600, 65535] {
        let mut record = Vec::new();
        answer_head(&mut record, 1, 2, status, std::iter::empty());
        assert!(ToServer::read(&record).is_err(), "{status}");
    }
}
