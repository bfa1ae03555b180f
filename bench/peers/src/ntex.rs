//! ntex with one worker, on its own io_uring driver.

use ntex::web::{self, App, HttpResponse, HttpServer};

async fn plain() -> HttpResponse {
    HttpResponse::Ok().header("Access-Control-Allow-Origin", "*").body(crate::TEXT)
}

pub fn run(port: u16) {
    ntex::rt::System::build()
        .name("ntex")
        .build(ntex::rt::DefaultRuntime)
        .block_on(async move {
            let app = async || App::new().service(web::resource("/{path}").route(web::get().to(plain)));
            HttpServer::new(app).workers(1).backlog(1024).bind(("127.0.0.1", port))?.run().await
        })
        .expect("ntex");
}
