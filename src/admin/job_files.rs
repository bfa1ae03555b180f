//! `/jobs/UUID/files`: inputs and outputs of a job.

use super::file_answer::{self, FileBody, unescaped};
use super::job_answers::{error, no_such_job, store_error};
use crate::domain::call::OwnedRequest;
use crate::jobs::Jobs;
use crate::jobs::store::Read;
use crate::proto::http1::RequestView;
use crate::proto::mime;
use crate::server_response::{Reply, ServerAnswer};
use serde_json::{Map, Value, json};

/// Lists the files of a job.
pub(super) fn list(jobs: &Jobs, uuid: String, reply: Reply) {
    jobs.read(move |reader| {
        reply.send(&match reader.files(&uuid) {
            Ok(Some(files)) => {
                let given: Map<String, Value> =
                    files.given.into_iter().map(|(name, blob)| (name, Value::from(blob))).collect();
                let made = files.made.iter().map(|file| json!({ "name": file.name, "bytes": file.bytes }));
                let made: Vec<Value> = made.collect();
                let state = files.state.as_str();
                ServerAnswer::json(200, json!({ "state": state, "given": given, "made": made }).to_string())
            }
            Ok(None) => no_such_job(),
            Err(cause) => store_error(&cause),
        });
    });
}

/// Sends a file that a job has written.
pub(super) fn get(jobs: &Jobs, uuid: &str, name: &str, view: &RequestView<'_>, reply: Reply) {
    let Some(name) = unescaped(name) else { return reply.send(&error(400, "the name of the file can't be read")) };
    let (uuid, request, blobs) = (uuid.to_owned(), OwnedRequest::copy(view), jobs.blobs().clone());
    jobs.read(move |reader| {
        let dir = match reader.output_dir(&uuid, &name) {
            Ok(Some(dir)) => dir,
            Ok(None) => {
                let words =
                    format!("the job has no file named {name}; the files of a job are available once the job is done");
                return reply.send(&error(404, &words));
            }
            Err(cause) => return reply.send(&store_error(&cause)),
        };
        match blobs.open_output(&dir, &name) {
            Ok(found) => {
                let content_type = mime::content_type(name.as_bytes());
                let etag = format!("\"{uuid}\"");
                file_answer::send(
                    &request,
                    FileBody { file: found.file, bytes: found.bytes, etag, content_type },
                    reply,
                );
            }
            Err(cause) => reply.send(&error(500, &cause.to_string())),
        }
    });
}
