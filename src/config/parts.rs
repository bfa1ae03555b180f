//! Parts of the settings whose defaults are the same on every machine: names and defaults are those of the table in `args`.

use super::ServeArgs;
use super::values::{ModuleDatabase, ModuleJobs};

/// Declares a part: each field has the name of its setting, and is read from the setting of that name.
macro_rules! part {
    ($(#[doc = $doc:literal])* $part:ident { $( $(#[doc = $about:literal])* $field:ident : $type:ty, )* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $part {
            $( $(#[doc = $about])* pub $field: $type, )*
        }

        impl $part {
            pub(super) fn of(args: &ServeArgs) -> Self {
                Self { $( $field: args.$field(), )* }
            }
        }
    };
}

part! {
    /// Limits on requests, and on the connections that bring them.
    RequestLimits {
        /// Limit, in bytes, on a request head: 431 beyond it.
        head_bytes_max: usize,
        /// Limit on the header fields of a request: 431 beyond it.
        headers_max: usize,
        /// Limit, in bytes, on a request target: 414 beyond it.
        uri_bytes_max: usize,
        /// Limit, in bytes, on a request body for modules: 413 beyond it.
        body_bytes_max: usize,
        /// Limit, in bytes, on a request body for `/mgnt`: 413 beyond it.
        mgnt_body_bytes_max: usize,
        /// Limit, in bytes, on the body limit that a route may set for itself.
        route_body_bytes_max: usize,
        /// Limit, in bytes, on the bodies a shard is receiving, and the same for those waiting for executors. 503 beyond it.
        bodies_bytes_max: usize,
        /// Limit, in bytes, on a domain's large answers and frames that are not sent yet.
        module_answers_bytes_max: usize,
        /// Requests after which the server closes a connection; 0: no limit.
        requests_per_connection_max: u64,
        /// Limit on the unanswered requests of a connection; reading pauses beyond it.
        pipeline_max: usize,
        /// Limit, in bytes, on `cweb_alloc` for one request: NULL beyond it.
        request_memory_bytes_max: usize,
        /// Limit on wrong keys from one address in a minute; beyond it the address is refused. 0: no limit.
        auth_failures_max: u32,
    }
}

part! {
    /// Limits on time.
    Timeouts {
        /// Limit on the time from a request's first byte to the end of its head: then 408.
        header_timeout_ms: u64,
        /// Limit on the time between two pieces of a body: then 408.
        body_timeout_ms: u64,
        /// Limit on the time that a connection stays open without a request.
        idle_timeout_ms: u64,
        /// Limit on the time in which a peer takes nothing of its answer: then the connection is closed.
        write_timeout_ms: u64,
        /// Limit on a run of a handler in a domain's process: then 504.
        handler_timeout_ms: u64,
        /// Limit on a run of the compiler: then 422.
        compile_timeout_ms: u64,
        /// Limit on the wait for running requests in a swap with `unload` and `onload`: then 503.
        swap_timeout_ms: u64,
        /// Limit on a run of a constructor, `onload`, `unload` or a job's cancel callback in a domain's process: then 422, or
        /// a line in the log.
        hook_timeout_ms: u64,
        /// Limit on the wait for running requests at exit.
        shutdown_timeout_ms: u64,
    }
}

part! {
    /// Settings about WebSockets.
    WebSocketSettings {
        /// Limit, in bytes, on a WebSocket message: the WebSocket is closed with 1009 beyond it.
        ws_message_bytes_max: usize,
        /// Limit, in bytes, on the unsent data of a WebSocket: the WebSocket is closed beyond it.
        ws_queue_bytes_max: usize,
        /// Limit on the messages of a WebSocket that wait for its handler; reading pauses beyond it.
        ws_inbox_messages_max: usize,
        /// Limit on the rooms of a WebSocket.
        ws_rooms_max: usize,
        /// Smallest WebSocket message that is compressed, in bytes; 0: the server never negotiates compression.
        ws_compress_bytes_min: usize,
        /// Time without data from a WebSocket's peer after which the server sends a ping; 0: never.
        ws_ping_interval_ms: u64,
        /// Limit on the wait for any data after a ping: then the WebSocket is closed.
        ws_pong_timeout_ms: u64,
    }
}

part! {
    /// Header fields of all answers, for pages of other origins.
    CorsSettings {
        /// `Access-Control-Allow-Origin` of all answers; empty for none.
        cors_allow_origin: String,
        /// `Access-Control-Allow-Methods` of preflights.
        cors_allow_methods: String,
        /// `Access-Control-Allow-Headers` of preflights.
        cors_allow_headers: String,
        /// `Access-Control-Max-Age` of preflights.
        cors_max_age_s: u32,
    }
}

part! {
    /// Limits on the modules of a domain, and on domains.
    ModuleLimits {
        /// Which domains share a database.
        module_database: ModuleDatabase,
        /// The modules whose jobs a module may create and read.
        module_jobs: ModuleJobs,
        /// Limit on the threads of a domain's process.
        module_threads_max: usize,
        /// Limit, in bytes a second, on the output of a domain.
        module_output_bytes_max: usize,
        /// Limit, in bytes, on the address space of a domain's process; 0: no limit.
        module_memory_bytes_max: u64,
        /// Limit, in bytes, on the memory of a domain's process, if the server can make cgroups; 0:
        /// `module_memory_bytes_max`.
        module_resident_bytes_max: u64,
        /// Growth, in bytes, of the resident memory of a domain's process that leads to its replacement; 0: no limit.
        module_rss_recycle_bytes: u64,
        /// Crashes of a module within `crash_window_ms` that lead to its quarantine; 0: never.
        crash_limit: usize,
        /// The time window for counting crashes.
        crash_window_ms: u64,
        /// Limit on domains, including the default domain: from 1 to 1024.
        domains_max: usize,
        /// Limit on the threads of the executor pool.
        executors_max: usize,
        /// Limit on concurrent calls of routes of `CWEB_STREAM`, for each shard and domain.
        stream_calls_max: usize,
        /// Limit on concurrent streamed answers of other handlers, for each shard and domain.
        stream_answers_max: usize,
        /// Limit, in bytes, on each direction of a stream that waits for its reader.
        stream_buffer_bytes: usize,
    }
}

part! {
    /// Limits on jobs.
    JobLimits {
        /// Limit, in bytes, on the payload of a job.
        job_payload_bytes_max: usize,
        /// Limit, in bytes, on an event of a job.
        job_event_bytes_max: usize,
        /// Limit, in bytes, on the result of a job.
        job_result_bytes_max: usize,
        /// Limit on the commands that wait for the store's writer.
        job_queue_max: usize,
        /// Limit on jobs that wait or run.
        job_pending_max: usize,
        /// Limit on the jobs of one module that run at once; 0: no limit.
        job_module_running_max: usize,
        /// Limit on the streams of job events of one shard: 503 beyond it.
        job_streams_max: usize,
    }
}
