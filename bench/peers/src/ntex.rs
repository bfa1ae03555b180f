//! ntex with one worker, on its own io_uring driver.

use ntex::SharedCfg;
use ntex::http::HttpServiceConfig;
use ntex::time::Seconds;
use ntex::web::{self, App, HttpResponse, HttpServer};

async fn plain() -> HttpResponse {
    HttpResponse::Ok().header("Access-Control-Allow-Origin", "*").body(crate::TEXT)
}

async fn json() -> HttpResponse {
    HttpResponse::Ok()
        .header("Content-Type", crate::JSON_TYPE)
        .header("Access-Control-Allow-Origin", "*")
        .body(crate::json())
}

pub fn run(port: u16) {
    ntex::rt::System::build()
        .name("ntex")
        .build(ntex::rt::DefaultRuntime)
        .block_on(async move {
            let app = async || {
                App::new()
                    .service(web::resource("/{path}").route(web::get().to(plain)))
                    .service(web::resource("/{path}/json").route(web::get().to(json)))
            };
            // With the default of one second for a head, early ones of 10,000 connections are closed before the last is open.
            let patient = HttpServiceConfig::new().set_headers_read_rate(Seconds(60), Seconds::ZERO, 1);
            HttpServer::new(app)
                .config(SharedCfg::new("ntex").add(patient))
                .workers(1)
                .backlog(4096)
                .maxconn(20_000)
                .bind(("127.0.0.1", port))?
                .run()
                .await
        })
        .expect("ntex");
}
