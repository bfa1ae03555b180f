use super::super::{Consumer, Producer, PushError, Region, RingSpec};
use super::{mapped_again, ring};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_record_is_its_parts_and_appends() {
    let (mut producer, mut consumer, _) = ring(256);
    producer.try_push(&[b"GET ", b"", b"/a/rather/long/path", b" HTTP/1.1"]).unwrap();
    producer.try_push(&[]).unwrap();
    assert!(!producer.publish());
    let mut into = b"> ".to_vec();
    assert_eq!(consumer.try_pop(&mut into), Ok(true));
    assert_eq!(consumer.try_pop(&mut into), Ok(true));
    assert_eq!(consumer.try_pop(&mut into), Ok(false));
    assert_eq!(into, b"> GET /a/rather/long/path HTTP/1.1");
}

#[test]
fn nothing_is_visible_before_it_is_published() {
    let (mut producer, mut consumer, _) = ring(256);
    producer.try_push(&[b"early"]).unwrap();
    assert!(consumer.is_empty());
    assert_eq!(consumer.try_pop(&mut Vec::new()), Ok(false));
    assert!(!producer.publish());
    assert!(!consumer.is_empty());
}

#[test]
fn a_full_ring_takes_nothing_until_room_is_released() {
    let (mut producer, mut consumer, _) = ring(64);
    producer.try_push(&[&[1; 16]]).unwrap();
    producer.try_push(&[&[2; 16]]).unwrap();
    assert_eq!(producer.try_push(&[&[3; 9], &[3; 7]]), Err(PushError::Full));
    producer.try_push(&[&[4; 8]]).unwrap();
    assert_eq!(producer.try_push(&[]), Err(PushError::Full));
    assert!(!producer.publish());
    let mut into = Vec::new();
    assert_eq!(consumer.try_pop(&mut into), Ok(true));
    assert_eq!(producer.try_push(&[&[5; 16]]), Err(PushError::Full));
    assert!(!producer.wait_room(16, Duration::from_millis(1)));
    consumer.release();
    assert!(producer.wait_room(16, Duration::ZERO));
    producer.try_push(&[&[5; 16]]).unwrap();
    assert!(!producer.publish());
    while consumer.try_pop(&mut into).unwrap() {}
    assert_eq!(into, [[1; 16].as_slice(), &[2; 16], &[4; 8], &[5; 16]].concat());
}

#[test]
fn a_record_has_at_most_a_quarter_of_the_ring() {
    let (mut producer, mut consumer, _) = ring(1024);
    producer.try_push(&[&[7; 200], &[7; 56]]).unwrap();
    assert_eq!(producer.try_push(&[&[7; 200], &[7; 57]]), Err(PushError::TooLarge));
    assert!(!producer.publish());
    let mut into = Vec::new();
    assert_eq!(consumer.try_pop(&mut into), Ok(true));
    assert_eq!(into, [7; 256]);
}

#[test]
fn publishing_tells_of_a_sleeper_once() {
    let (mut producer, consumer, _) = ring(256);
    consumer.prepare_sleep();
    assert!(!producer.publish(), "there is nothing to wake for");
    producer.try_push(&[b"1"]).unwrap();
    assert!(producer.publish());
    producer.try_push(&[b"2"]).unwrap();
    assert!(!producer.publish());
    consumer.prepare_sleep();
    consumer.awake();
    producer.try_push(&[b"3"]).unwrap();
    assert!(!producer.publish());
}

#[test]
fn waits_end_with_their_time() {
    let (mut producer, mut consumer, _) = ring(64);
    assert!(!consumer.wait(Duration::from_millis(1)));
    assert!(producer.wait_room(16, Duration::ZERO));
    while producer.try_push(&[b"12345678"]).is_ok() {}
    assert!(!producer.publish());
    assert!(consumer.wait(Duration::ZERO));
    assert!(!producer.wait_room(8, Duration::from_millis(1)));
}

#[test]
fn two_rings_share_a_region() {
    let there = RingSpec { offset: 0, data_bytes: 64 };
    let back = RingSpec { offset: there.total_bytes().next_multiple_of(RingSpec::ALIGN), data_bytes: 64 };
    let region = Arc::new(Region::create(back.offset + back.total_bytes()).unwrap());
    let other = mapped_again(&region, back);
    let (mut ask, mut answers) = (Producer::new(&region, there).unwrap(), Consumer::new(&region, back).unwrap());
    let (mut asks, mut answer) = (Consumer::new(&other, there).unwrap(), Producer::new(&other, back).unwrap());
    for round in 0..100_u32 {
        let (mut question, mut reply) = (Vec::new(), Vec::new());
        ask.try_push(&[&round.to_le_bytes()]).unwrap();
        assert!(!ask.publish());
        assert_eq!(asks.try_pop(&mut question), Ok(true));
        asks.release();
        answer.try_push(&[&question, b"!"]).unwrap();
        assert!(!answer.publish());
        assert_eq!(answers.try_pop(&mut reply), Ok(true));
        answers.release();
        assert_eq!(reply, [&round.to_le_bytes()[..], b"!"].concat());
    }
}

#[test]
fn a_specification_is_checked() {
    let region = Arc::new(Region::create(4096).unwrap());
    let refused = |offset, data_bytes| {
        let spec = RingSpec { offset, data_bytes };
        let kind = Producer::new(&region, spec).err().map(|error| error.kind());
        assert_eq!(kind, Consumer::new(&region, spec).err().map(|error| error.kind()));
        kind == Some(ErrorKind::InvalidInput)
    };
    assert!(!refused(0, 2048) && !refused(27 * 128, 64));
    assert!(refused(0, 0) && refused(0, 32) && refused(0, 96) && refused(0, 4096) && refused(0, 1 << 31));
    assert!(refused(8, 64) && refused(4096 - 512, 64) && refused(4096, 64) && refused(usize::MAX & !127, 64));
}

#[test]
fn a_region_is_checked() {
    let region = Region::create(4096).unwrap();
    let open = |bytes| Region::open(region.fd().try_clone_to_owned().unwrap(), bytes).map_err(|error| error.kind());
    assert!(open(4096).is_ok());
    assert_eq!(open(8192).err(), Some(ErrorKind::InvalidData));
    assert_eq!(open(2048).err(), Some(ErrorKind::InvalidData));
    for bytes in [0, 12, usize::MAX & !7] {
        assert_eq!(open(bytes).err(), Some(ErrorKind::InvalidInput));
        assert_eq!(Region::create(bytes).err().map(|error| error.kind()), Some(ErrorKind::InvalidInput));
    }
    assert!(rustix::fs::ftruncate(region.fd(), 0).is_err());
    assert!(rustix::fs::ftruncate(region.fd(), 8192).is_err());
    assert!(rustix::fs::fcntl_add_seals(region.fd(), rustix::fs::SealFlags::WRITE).is_err());

    let unsealed = rustix::fs::memfd_create("cweb-test", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&unsealed, 4096).unwrap();
    assert_eq!(Region::open(unsealed, 4096).err().map(|error| error.kind()), Some(ErrorKind::InvalidData));
    let (pipe, _) = std::io::pipe().unwrap();
    assert!(Region::open(pipe.into(), 4096).is_err());
}
