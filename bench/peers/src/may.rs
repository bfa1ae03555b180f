//! may_minihttp with one worker.

use may_minihttp::{HttpService, HttpServiceFactory, Request, Response};
use std::io;

struct Plain;

impl HttpService for Plain {
    fn call(&mut self, request: Request, response: &mut Response) -> io::Result<()> {
        response.header("Access-Control-Allow-Origin: *");
        if request.path().ends_with("/json") {
            response.header("Content-Type: application/json");
            response.body_mut().extend_from_slice(crate::json().as_bytes());
        } else {
            response.body(crate::TEXT);
        }
        Ok(())
    }
}

struct Factory;

impl HttpServiceFactory for Factory {
    type Service = Plain;

    fn new_service(&self, _number: usize) -> Plain {
        Plain
    }
}

pub fn run(port: u16) {
    may::config().set_workers(1);
    let server = Factory.start(("127.0.0.1", port)).expect("bind");
    server.wait();
}
