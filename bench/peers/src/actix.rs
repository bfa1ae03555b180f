//! actix-web with one worker.

use actix_web::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue};
use actix_web::{App, HttpResponse, HttpServer, rt, web};

async fn plain() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")))
        .body(web::Bytes::from_static(crate::TEXT.as_bytes()))
}

async fn with_body(_body: web::Bytes) -> HttpResponse {
    plain().await
}

pub fn run(port: u16) {
    let app = || {
        let routes = web::resource("/{path}").route(web::get().to(plain)).route(web::post().to(with_body));
        App::new().service(routes)
    };
    rt::System::new()
        .block_on(HttpServer::new(app).workers(1).backlog(1024).bind(("127.0.0.1", port)).expect("bind").run())
        .expect("actix-web");
}
