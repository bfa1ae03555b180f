//! hyper on one thread of tokio. What computes runs on tokio's blocking pool.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use std::convert::Infallible;

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path_is_sha = request.uri().path() == "/sha256";
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text = if path_is_sha {
        let digest = tokio::task::spawn_blocking(move || Sha256::digest(&body)).await.expect("a digest");
        Bytes::from(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    } else {
        Bytes::from_static(b"Hello, World!")
    };
    let mut response = Response::new(Full::new(text));
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    Ok(response)
}

pub fn run(port: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("bind");
        eprintln!("listening");
        loop {
            let (stream, _) = listener.accept().await.expect("accept");
            let _ = stream.set_nodelay(true);
            let mut server = hyper::server::conn::http1::Builder::new();
            server.pipeline_flush(true);
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
}
