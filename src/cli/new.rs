//! `cweb new`

use super::exit::{Exit, Failure};
use clap::Args;
use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct NewArgs {
    /// The module's name: letters, digits, - and _; writes NAME.c
    name: String,
}

const TEMPLATE: &str = r#"/*
 * @NAME@: a cweb module.
 *
 *   cweb deploy @NAME@.c
 *   curl 'http://127.0.0.1:8080/@NAME@?who=you'
 */
#include <cweb.h>

static int greet(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    const char *who = http_kv_get(req->params, "who");
    return cweb_respond(res, HTTP_200_OK, "text/plain", "Hello, %s!\n", who != NULL ? who : "world");
}

export module_t config = {
    .name = "@NAME@",
    .author = "",
    .routes = {{"/@NAME@", "GET", greet, NONE}},
    .size = 1,
};
"#;

pub(super) fn run(args: &NewArgs) -> ExitCode {
    let name = &args.name;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
        let text = format!("\"{name}\" is no name for a module: use letters, digits, - and _");
        return Failure::new(Exit::Usage, text).end();
    }
    let path = format!("{name}.c");
    // `create_new` refuses to overwrite, with no moment in between.
    match File::create_new(&path).and_then(|mut file| file.write_all(TEMPLATE.replace("@NAME@", name).as_bytes())) {
        Ok(()) => {
            println!("wrote {path}; deploy it with: cweb deploy {path}");
            ExitCode::SUCCESS
        }
        Err(error) => super::fail(format!("{path}: {error}")),
    }
}
