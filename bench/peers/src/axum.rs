//! axum on one thread of tokio.

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;

const ORIGIN: (HeaderName, HeaderValue) = (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
const JSON: (HeaderName, HeaderValue) = (CONTENT_TYPE, HeaderValue::from_static(crate::JSON_TYPE));

async fn plain() -> Response {
    let mut response = axum::body::Body::from(crate::TEXT).into_response();
    response.headers_mut().extend([ORIGIN]);
    response
}

async fn json() -> Response {
    let mut response = axum::body::Body::from(crate::json()).into_response();
    response.headers_mut().extend([JSON, ORIGIN]);
    response
}

async fn with_body(_body: Bytes) -> Response {
    plain().await
}

pub fn run(port: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("SO_REUSEADDR");
        socket.bind(([127, 0, 0, 1], port).into()).expect("bind");
        let listener = socket.listen(4096).expect("listen");
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let routes = Router::new()
            .route("/{path}", get(plain).post(with_body))
            .route("/{path}/json", get(json))
            .layer(DefaultBodyLimit::max(crate::BODY_BYTES_MAX));
        axum::serve(listener, routes).await.expect("axum");
    });
}
