//! actix-web with one worker.

use actix_web::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE, HeaderValue};
use actix_web::{App, HttpResponse, HttpServer, rt, web};

async fn plain() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")))
        .body(web::Bytes::from_static(crate::TEXT.as_bytes()))
}

async fn json() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, HeaderValue::from_static(crate::JSON_TYPE)))
        .insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")))
        .body(crate::json())
}

async fn with_body(_body: web::Bytes) -> HttpResponse {
    plain().await
}

pub fn run(port: u16) {
    let app = || {
        let routes = web::resource("/{path}").route(web::get().to(plain)).route(web::post().to(with_body));
        App::new()
            .app_data(web::PayloadConfig::new(crate::BODY_BYTES_MAX))
            .service(routes)
            .service(web::resource("/{path}/json").route(web::get().to(json)))
    };
    rt::System::new()
        .block_on(
            HttpServer::new(app)
                .client_request_timeout(std::time::Duration::from_secs(60))
                .workers(1)
                .backlog(4096)
                .max_connections(20_000)
                .bind(("127.0.0.1", port))
                .expect("bind")
                .run(),
        )
        .expect("actix-web");
}
