//! The floor: a bare monoio + httparse loop that answers a constant, with the header fields cweb sends.
//! `floor PORT [flags|driver]`; with `flags` its ring has the same set-up flags as cweb's. All answers to what one read brought
//! leave in one write. With `driver` the ring has these flags too, and the loop is that of `driver.rs`.

use floor::{ANSWER, driver};
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};
use std::rc::Rc;

async fn serve(mut stream: TcpStream) {
    let mut buffer = Vec::with_capacity(16 * 1024);
    let mut pending: Vec<u8> = Vec::new();
    loop {
        let (result, filled) = stream.read(buffer).await;
        buffer = filled;
        let Ok(count @ 1..) = result else { return };
        pending.extend_from_slice(&buffer[..count]);
        let (mut at, mut out) = (0, Vec::with_capacity(ANSWER.len()));
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 32];
            match httparse::Request::new(&mut headers).parse(&pending[at..]) {
                Ok(httparse::Status::Complete(length)) => at += length,
                Ok(httparse::Status::Partial) => break,
                Err(_) => return,
            }
            out.extend_from_slice(ANSWER);
        }
        pending.drain(..at);
        if !out.is_empty() && stream.write_all(out).await.0.is_err() {
            return;
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let port = arguments.get(1).expect("usage: floor PORT [flags|driver]");
    let mode = arguments.get(2).map(String::as_str);
    let mut ring = io_uring::IoUring::builder();
    if mode.is_some() {
        ring.setup_single_issuer().setup_defer_taskrun();
    }
    let mut runtime =
        RuntimeBuilder::<IoUringDriver>::new().with_entries(1024).uring_builder(ring).build().expect("io_uring");
    runtime.block_on(async {
        let listener = TcpListener::bind(format!("127.0.0.1:{port}")).expect("bind");
        if mode == Some("driver") {
            let shared = Rc::default();
            monoio::spawn(accept(listener, {
                let shared = Rc::clone(&shared);
                move |stream| drop(monoio::spawn(driver::serve(stream, readable, Rc::clone(&shared))))
            }));
            driver::send(shared).await;
        } else {
            accept(listener, |stream| drop(monoio::spawn(serve(stream)))).await;
        }
    });
}

async fn accept(listener: TcpListener, serve: impl Fn(TcpStream)) {
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        let _ = stream.set_nodelay(true);
        serve(stream);
    }
}

async fn readable(stream: &TcpStream) -> std::io::Result<()> {
    stream.readable(false).await
}
