//! Measures the speed; not run by default. See `alone/lib.rs`.

use super::super::PushError;
use super::{publish, ring};
use std::thread;
use std::time::{Duration, Instant};

const RECORD: [u8; 300] = [7; 300];
const COUNT: usize = 5_000_000;
const LONG: Duration = Duration::from_secs(9);

/// Nanoseconds per record between two threads pinned to the two cores, in batches of `batch`.
fn measure(cores: (usize, usize), batch: usize) -> f64 {
    let (mut producer, mut consumer, _) = ring(256 << 10);
    let pin = |core| assert!(core_affinity::set_for_current(core_affinity::CoreId { id: core }));
    let start = Instant::now();
    let writer = thread::spawn(move || {
        pin(cores.0);
        for number in 0..COUNT {
            while producer.try_push(&[&RECORD[..40], &RECORD[40..]]) == Err(PushError::Full) {
                publish(&mut producer);
                producer.wait_room(RECORD.len(), LONG);
            }
            if number % batch == batch - 1 {
                publish(&mut producer);
            }
        }
        publish(&mut producer);
    });
    thread::spawn(move || {
        pin(cores.1);
        let (mut into, mut seen) = (Vec::new(), 0);
        while seen < COUNT {
            into.clear();
            if consumer.try_pop(&mut into).unwrap() {
                seen += 1;
                if seen % batch == 0 {
                    consumer.release();
                }
            } else {
                consumer.wait(LONG);
            }
        }
    })
    .join()
    .unwrap();
    writer.join().unwrap();
    start.elapsed().as_nanos() as f64 / COUNT as f64
}

#[test]
#[ignore = "a measurement"]
fn nanoseconds_a_record() {
    for batch in [1, 16, 64] {
        let (two, one) = (measure((0, 1), batch), measure((0, 0), batch));
        println!("300 B, batches of {batch}: {two:.0} ns on two cores, {one:.0} ns on one");
    }
}
