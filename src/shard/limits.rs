//! The limits of a shard, copied once from the configuration.

use crate::abi::manifest::RouteDecl;
use crate::proto::http1;

/// Limits and time-outs of one shard.
#[derive(Debug, Clone)]
pub struct ShardLimits {
    /// Limits of the request parser.
    pub http: http1::Limits,
    /// Limit, in bytes, on a body for a module, unless its route sets a limit.
    pub body_bytes_max: usize,
    /// Limit, in bytes, on the limit that a route may set.
    pub route_body_bytes_max: usize,
    /// Limit, in bytes, on a body for one of the server's own paths.
    pub own_body_bytes_max: usize,
    /// Limit, in bytes, on all bodies that are being received; the same limit applies to bodies that wait for executors.
    /// 503 beyond it.
    pub bodies_bytes_max: usize,
    /// Limit on open connections.
    pub connections_max: usize,
    /// Limit on the requests of one connection, which is closed after the last answer.
    pub requests_per_connection_max: u64,
    /// Limit on the unanswered requests of one connection.
    pub pipeline_max: usize,
    /// Limit on calls in flight on executors; with isolated modules, for each domain. 503 beyond it.
    pub in_flight_max: usize,
    /// Limit on requests to the server's own paths in flight; 503 beyond it.
    pub own_in_flight_max: usize,
    /// Limit on streams of job events; 503 beyond it.
    pub streams_max: usize,
    /// Unsent and expected bytes of one connection's answers above which its further requests wait.
    pub unsent_bytes_max: usize,
    /// Limit, in bytes, on a WebSocket message.
    pub ws_message_bytes_max: usize,
    /// Unsent bytes of one WebSocket above which it is closed.
    pub ws_queue_bytes_max: usize,
    /// Limit on the messages of one WebSocket that wait for its handler; beyond it the shard stops reading.
    pub ws_inbox_messages_max: usize,
    /// Limit on the rooms of one WebSocket.
    pub ws_rooms_max: usize,
    /// Whether the server agrees to compression that a WebSocket's client offers.
    pub ws_compress: bool,
    /// Limit on the time from the first byte of a request to the end of its head.
    pub header_timeout_ms: u64,
    /// Limit on the time between two reads of a body.
    pub body_timeout_ms: u64,
    /// Limit on the time that a connection stays open without requests.
    pub idle_timeout_ms: u64,
    /// Limit on the time in which a peer takes none of its unsent bytes.
    pub write_timeout_ms: u64,
    /// Time without data from a WebSocket's peer after which the shard sends a ping; 0: never.
    pub ws_ping_interval_ms: u64,
    /// Limit on the wait for any data after a ping.
    pub ws_pong_timeout_ms: u64,
    /// Whether pages are told of deployments (`--dev`).
    pub dev: bool,
    /// Time limit of a handler in a domain's process.
    pub handler_timeout_ms: u64,
    /// The default `Access-Control-Allow-Origin`.
    pub cors_origin: Option<String>,
    /// `Access-Control-Allow-Methods` of the default answer to OPTIONS.
    pub cors_methods: String,
    /// `Access-Control-Allow-Headers` of the default answer to OPTIONS.
    pub cors_headers: String,
    /// `Access-Control-Max-Age` in seconds of the default answer to OPTIONS.
    pub cors_max_age_s: u32,
}

impl ShardLimits {
    /// The limit on a body for `route`, in bytes.
    #[must_use]
    pub fn route_body_bytes_max(&self, route: &RouteDecl) -> usize {
        route.body_bytes_max().map_or(self.body_bytes_max, |own| own.min(self.route_body_bytes_max))
    }
}
