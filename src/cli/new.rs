//! `cweb new`

use super::exit::{Exit, Failure, fail};
use crate::module::project::EDITOR_FLAGS;
use clap::{Args, ValueEnum};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct NewArgs {
    /// The module's name: letters, digits, - and _; writes NAME.c, or with --template the directory NAME
    name: String,
    /// Make a project of this kind of module
    #[arg(long, value_enum)]
    template: Option<Template>,
}

/// The starting point of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Template {
    /// A route
    Http,
    /// An upload of any size, processed while it arrives
    Stream,
    /// A WebSocket
    Websocket,
    /// A background job
    Job,
    /// An image, with libpng
    Image,
    /// A page with its assets
    Page,
}

const TEMPLATE: &str = r#"/*
 * @NAME@: a cweb module.
 *
 *   cweb test @NAME@.c
 *   cweb deploy @NAME@.c
 *   curl 'http://127.0.0.1:8080/@NAME@?who=you'
 */
#include <cweb.h>
#include <cweb_test.h>

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

/* Only cweb test compiles this test. */
CWEB_TEST(greets_who_is_named) {
    const cweb_test_response_t *res = cweb_test_request("GET", "/@NAME@?who=you", NULL, NULL);
    CWEB_ASSERT_EQ(res->status, 200);
    CWEB_ASSERT_STR(res->body, "Hello, you!\n");
}
"#;

/// The files of a new project: paths and texts.
fn project_files(template: Template) -> Vec<(&'static str, &'static str)> {
    let (source, test) = match template {
        Template::Http => (include_str!("templates/http.c"), include_str!("templates/http_test.c")),
        Template::Stream => (include_str!("templates/stream.c"), include_str!("templates/stream_test.c")),
        Template::Image => (include_str!("templates/image.c"), include_str!("templates/image_test.c")),
        Template::Websocket => (include_str!("templates/websocket.c"), include_str!("templates/websocket_test.c")),
        Template::Job => (include_str!("templates/job.c"), include_str!("templates/job_test.c")),
        Template::Page => (include_str!("templates/page.c"), include_str!("templates/page_test.c")),
    };
    // Only this template reads a setting.
    let project = if template == Template::Http { PROJECT_FILE_WITH_SETTING } else { PROJECT_FILE };
    let mut files = vec![
        ("src/main.c", source),
        ("tests/main_test.c", test),
        ("module.toml", project),
        (".gitignore", "/.cweb/\n"),
    ];
    if template == Template::Page {
        files.push(("assets/index.html", include_str!("templates/index.html")));
    }
    files
}

const PROJECT_FILE: &str = "\
name = \"@NAME@\"
# libs = [\"zstd\"]
# cflags = [\"-O3\"]

# [settings]
# KEY = \"the value of cweb_setting(ctx, \\\"KEY\\\") until the server has another value\"
";

const PROJECT_FILE_WITH_SETTING: &str = "\
name = \"@NAME@\"
# libs = [\"zstd\"]
# cflags = [\"-O3\"]

[settings]
GREETING = \"Hello\"
";

pub(super) fn run(args: &NewArgs) -> ExitCode {
    let name = &args.name;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
        let text = format!("\"{name}\" can't name a module: use letters, digits, - and _");
        return Failure::new(Exit::Usage, text).end();
    }
    if let Some(template) = args.template {
        return project(name, template).map_or_else(fail, |()| ExitCode::SUCCESS);
    }
    let path = format!("{name}.c");
    match write_new(Path::new(&path), &TEMPLATE.replace("@NAME@", name)) {
        Ok(()) => {
            println!("wrote {path}; deploy it with: cweb deploy {path}");
            ExitCode::SUCCESS
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fail(format!("{path} exists already: give the module another name, or remove the file"))
        }
        Err(error) => fail(format!("{path}: {error}")),
    }
}

/// Writes a new file. `create_new` refuses to overwrite a file, without a race.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    File::create_new(path).and_then(|mut file| file.write_all(text.as_bytes()))
}

/// The language standards with which a server compiles.
const CLANGD: &str = "If:\n  PathMatch: .*\\.c\nCompileFlags:\n  Add: [-std=gnu11]\n---\nIf:\n  PathMatch: .*\\.(cpp|cc|cxx)\n\
    CompileFlags:\n  Add: [-std=gnu++20]\n";

/// Writes the project of a template into the new directory `name`.
fn project(name: &str, template: Template) -> Result<(), String> {
    let dir = Path::new(name);
    let at = |path: &Path, error: &io::Error| format!("{}: {error}", path.display());
    fs::create_dir(dir).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => format!("{name} exists already: give the project another name"),
        _ => at(dir, &error),
    })?;
    for (path, text) in project_files(template) {
        let path = dir.join(path);
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(|error| at(&path, &error))?;
        write_new(&path, &text.replace("@NAME@", name)).map_err(|error| at(&path, &error))?;
    }
    // clangd reads both files: each line of the first is a flag; the second has the standard of each language.
    let flags = super::check::editor_flags()?;
    let path = dir.join(EDITOR_FLAGS);
    write_new(&path, &format!("-Iinclude\n{}\n", flags.join("\n"))).map_err(|error| at(&path, &error))?;
    let path = dir.join(".clangd");
    write_new(&path, CLANGD).map_err(|error| at(&path, &error))?;
    println!("wrote {name}/; try it with: cweb test {name}; and: cweb dev {name}");
    Ok(())
}
