//! axum on one thread of tokio.

use axum::Router;
use axum::body::Bytes;
use axum::http::header::ACCESS_CONTROL_ALLOW_ORIGIN;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;

async fn plain() -> Response {
    let field: (HeaderName, HeaderValue) = (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let mut response = axum::body::Body::from(crate::TEXT).into_response();
    response.headers_mut().extend([field]);
    response
}

async fn with_body(_body: Bytes) -> Response {
    plain().await
}

pub fn run(port: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("bind");
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let routes = Router::new().route("/{path}", get(plain).post(with_body));
        axum::serve(listener, routes).await.expect("axum");
    });
}
