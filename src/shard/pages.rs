//! Pages during development (`--dev`): a script that reloads a page after each deployment.
//!
//! A page includes the script, and the script listens to a stream of server-sent events. Answers of modules are not
//! changed. Without `--dev` these paths have no meaning. The stream contains only the names of deployed modules, so it
//! needs no key; a page has none.

use super::Shard;
use super::begun::Begun;
use super::origin::Origin;
use super::streams::is_event_stream_of;
use crate::logbook::{self, From};
use crate::proto::form;
use crate::proto::http1::{Method, RequestView};
use crate::server_response::{ServerAnswer, shutting_down};

/// The prefix of the paths.
const ROOT: &[u8] = b"/cweb-dev/";
/// The script.
const SCRIPT_PATH: &[u8] = b"/cweb-dev/reload.js";
/// The stream of deployments.
const STREAM_PATH: &[u8] = b"/cweb-dev/deployments";

const SCRIPT: &str = include_str!("reload.js");

impl Shard {
    /// Whether the path is one of those for pages in development.
    pub(super) fn is_for_pages(&self, path: &[u8]) -> bool {
        self.limits.dev && path.starts_with(ROOT)
    }

    /// Answers a request for a path of [`Shard::is_for_pages`]; the connection ends with the answer.
    pub(super) fn begin_pages(&mut self, origin: &Origin, view: &RequestView<'_>, out: &mut Vec<u8>) -> Begun {
        let mut meta = self.meta(origin, view);
        meta.keep_alive = false;
        // Pages of other sites may not read these answers.
        meta.cors_origin = None;
        if is_event_stream_of(view, STREAM_PATH, b"") && view.path() == STREAM_PATH {
            if self.draining {
                shutting_down().encode(&meta, out);
                return Begun::Answered;
            }
            if self.streams_open() >= self.limits.streams_max {
                return self.too_many_streams(&meta, out);
            }
            let seen = view.header("last-event-id").and_then(|text| std::str::from_utf8(text).ok());
            let mut after = seen.and_then(|text| text.trim().parse().ok()).filter(|id| *id > 0);
            form::urlencoded(view.query().unwrap_or_default(), |key, value| {
                let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
                after = after.or(number.filter(|_| key == b"after"));
            });
            let from = From { after, lines: Some(0), ..From::default() };
            return self.begin_lines(origin, logbook::DEPLOYMENTS.to_owned(), from, meta);
        }
        let answer = match (view.path(), view.method()) {
            (SCRIPT_PATH, Method::Get | Method::Head) => ServerAnswer {
                content_type: "text/javascript; charset=utf-8",
                ..ServerAnswer::text(200, SCRIPT.replace("@AFTER@", &logbook::last_deployment().to_string()))
                    .with("Cache-Control", "no-store")
            },
            (STREAM_PATH, Method::Get) => {
                ServerAnswer::text(406, "this is a stream of server-sent events: accept text/event-stream\n")
            }
            _ => ServerAnswer::text(
                404,
                "a server in development has /cweb-dev/reload.js and /cweb-dev/deployments here\n",
            ),
        };
        answer.encode(&meta, out);
        Begun::Answered
    }
}
