//! The limits a shard keeps, taken from the configuration once.

use crate::abi::manifest::RouteDecl;
use crate::proto::http1;

/// Limits and time-outs of one shard.
#[derive(Debug, Clone)]
pub struct ShardLimits {
    /// Limits of the request parser.
    pub http: http1::Limits,
    /// Largest body of a request to a module, unless its route has a limit of its own.
    pub body_bytes_max: usize,
    /// Largest limit that a route can give itself.
    pub route_body_bytes_max: usize,
    /// Largest body of a request to one of the server's own paths.
    pub own_body_bytes_max: usize,
    /// All bodies that are being received; and, again, all that wait for executors: 503 beyond it.
    pub bodies_bytes_max: usize,
    /// Open connections.
    pub connections_max: usize,
    /// Requests of one connection: the last one's answer closes it.
    pub requests_per_connection_max: u64,
    /// Requests of one connection in flight or waiting.
    pub pipeline_max: usize,
    /// Calls in flight on executors, of each domain where modules have processes; beyond it requests are answered 503.
    pub in_flight_max: usize,
    /// Requests on the server's own paths in flight; beyond it they are answered 503.
    pub own_in_flight_max: usize,
    /// Streams of job events; beyond it 503.
    pub streams_max: usize,
    /// Bytes of one connection's unsent and expected answers above which its further requests wait.
    pub unsent_bytes_max: usize,
    /// Largest WebSocket message.
    pub ws_message_bytes_max: usize,
    /// Unsent bytes of one WebSocket above which it is closed.
    pub ws_queue_bytes_max: usize,
    /// Messages of one WebSocket that may wait for its handler before reading pauses.
    pub ws_inbox_messages_max: usize,
    /// Rooms that one WebSocket may be in.
    pub ws_rooms_max: usize,
    /// Whether compression is agreed on with WebSockets' clients that offer it.
    pub ws_compress: bool,
    /// From the first byte of a request to the end of its head.
    pub header_timeout_ms: u64,
    /// Between two reads of a body.
    pub body_timeout_ms: u64,
    /// A connection with nothing in flight.
    pub idle_timeout_ms: u64,
    /// A peer that takes none of the bytes waiting for it.
    pub write_timeout_ms: u64,
    /// A WebSocket from which nothing came for this long gets a ping; 0: none.
    pub ws_ping_interval_ms: u64,
    /// From a ping to a sign of life.
    pub ws_pong_timeout_ms: u64,
    /// Whether pages are told of deployments.
    pub dev: bool,
    /// Longest run of a handler in a process of its own.
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
    /// Largest body of a request to `route`.
    #[must_use]
    pub fn route_body_bytes_max(&self, route: &RouteDecl) -> usize {
        route.body_bytes_max().map_or(self.body_bytes_max, |own| own.min(self.route_body_bytes_max))
    }
}
