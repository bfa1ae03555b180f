//! Both sides of a domain on one thread, for counting the cost of a call. The shard's endpoints and the domain's
//! companion have real rings and a real module between them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A property that does not hold is a panic here.

use super::answers::Answers;
use super::arena::Parts;
use super::companion::RequestRing;
use super::endpoints::{Ends, RingEndpoints};
use super::fuzz::{Fate, remote};
use super::identity::Identity;
use super::layout::Layout;
use super::passing;
use super::response_ring::ResponseRing;
use super::streaming::ShardStreams;
use super::work::{ChildDomain, DomainRunner, RingRecord};
use crate::domain::Instance;
use crate::domain::in_process::InProcess;
use crate::domain::ring::{Consumer, Producer, Region};
use std::path::Path;
use std::sync::{Arc, RwLock};

/// The domain's side.
pub(crate) struct CountedDomain {
    request_ring: RequestRing,
    runner: DomainRunner,
    spare: Option<RingRecord>,
}

impl CountedDomain {
    /// Loads the module at `path` and returns both sides, and the module as the shard sees it.
    pub(crate) fn load(host: &InProcess, path: &Path) -> (Box<RingEndpoints>, Self, Arc<dyn Instance>) {
        let layout = Layout::new(1);
        let region = Arc::new(Region::create(layout.bytes()).unwrap());
        let (to_domain, to_server) = (layout.to_domain(0), layout.to_server(0));
        let (ends, bodies) = Ends::of(&region, to_domain, to_server).unwrap();
        let endpoints = RingEndpoints::new(0, Identity::first("default", 1), 1, ends, Box::new(Fate::default()));
        let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        let producer = Producer::new(&region, to_server).unwrap();
        let files = passing::pair().unwrap().1;
        let responses = Arc::new(ResponseRing::new(producer, wake, to_server.record_bytes_max(), files));
        let parts = Parts::new(1, Ends::BUDGETS);
        let domain = Arc::new(ChildDomain {
            instances: RwLock::default(),
            response_rings: vec![responses],
            answers: Arc::new(Answers::new(parts.lend_answers(&bodies))),
            requests: vec![parts.borrow_requests(&bodies, 0)],
            streams: vec![Arc::new(ShardStreams::new(parts.streams(&bodies, 0)))],
            sockets: vec![Default::default()],
            gone: vec![Default::default()],
            has_workers: std::sync::atomic::AtomicBool::default(),
        });
        let loaded = host.open(path, 1).unwrap();
        let (instance, number) = remote(loaded.manifest().clone());
        domain.instances.write().unwrap().insert(number, loaded);
        let consumer = Consumer::new(&region, to_domain).unwrap();
        let request_ring = RequestRing::new(0, consumer, Arc::clone(&domain));
        let runner = DomainRunner::new(&domain);
        (Box::new(endpoints), Self { request_ring, runner, spare: None }, instance)
    }

    /// Runs all waiting calls, like the companion.
    pub(crate) fn work(&mut self) {
        self.request_ring.run_waiting(&mut self.runner, &mut self.spare);
    }
}
