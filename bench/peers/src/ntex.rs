//! ntex with one worker, on its own io_uring driver.

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
            HttpServer::new(app).workers(1).backlog(4096).maxconn(20_000).bind(("127.0.0.1", port))?.run().await
        })
        .expect("ntex");
}
