//! Limits on request bodies: on one body, and on all incomplete bodies of a shard.

use super::Shard;
use super::conn::Conn;
use super::origin::Origin;
use crate::abi::manifest::{BodyLimitOf, RouteDecl};
use crate::admin;
use crate::module::table::RouteMatch;
use crate::net::Connections;
use crate::proto::http1::{Method, RequestView};
use crate::server_response::ServerAnswer;

impl Shard {
    /// The limit, in bytes, on the body of this request, after its head has been read.
    ///
    /// # Errors
    /// The answer that the request gets without its body being read.
    pub(super) fn body_limit(
        &self,
        origin: &Origin,
        view: &RequestView<'_>,
        announced: Option<usize>,
    ) -> Result<usize, ServerAnswer> {
        let limit = if !origin.is_for_server(view.path()) {
            self.module_body_limit(view)
        } else if view.path() == b"/healthz" || view.method() == Method::Options {
            // These requests need no key.
            self.limits.body_bytes_max
        } else {
            // A client without permission should not send its body.
            self.admin.admit(view, origin.client)?;
            self.limits.own_body_bytes_max
        };
        match announced {
            Some(length) if length > limit => {
                if origin.is_for_server(view.path()) {
                    self.admin.too_large(view, origin.client, limit);
                    Err(own_too_large(limit))
                } else {
                    Err(self.too_large(limit, self.declared(view)))
                }
            }
            _ => Ok(limit),
        }
    }

    fn module_body_limit(&self, view: &RequestView<'_>) -> usize {
        let table = self.snapshot.table();
        let routes = |module: usize| table.modules().get(module).map(|module| module.manifest().routes.as_slice());
        let limit = |route: &RouteDecl| self.limits.route_body_bytes_max(route);
        let found = match table.route(view.method().as_str(), view.path()) {
            RouteMatch::Found { module, route } => routes(module).and_then(|routes| routes.get(route)).map(limit),
            // The route is known after the swap, and is then checked again.
            RouteMatch::Held { module } => routes(module).and_then(|routes| routes.iter().map(limit).max()),
            _ => None,
        };
        found.unwrap_or(self.limits.body_bytes_max)
    }

    /// The route of `view` in its module's declaration; `None` also during a swap of the module.
    pub(super) fn declared(&self, view: &RequestView<'_>) -> Option<&RouteDecl> {
        let table = self.snapshot.table();
        let RouteMatch::Found { module, route } = table.route(view.method().as_str(), view.path()) else { return None };
        table.modules().get(module)?.manifest().routes.get(route)
    }

    /// The answer to a body of more than `limit` bytes for `route` (RFC 9110 §15.5.14): names the limit and its source.
    pub(super) fn too_large(&self, limit: usize, route: Option<&RouteDecl>) -> ServerAnswer {
        let whose = match route.map_or(BodyLimitOf::Server, RouteDecl::body_limit_of) {
            BodyLimitOf::Project => "the limit of its project: body_bytes in [limits] of module.toml",
            BodyLimitOf::Route if route.and_then(RouteDecl::body_bytes_max).is_some_and(|own| own > limit) => {
                "the operator's limit for routes with CWEB_BODY_MIB(n): --route-body-bytes-max"
            }
            BodyLimitOf::Route => "the limit of this route: CWEB_BODY_MIB(n) in its flags",
            BodyLimitOf::Server => {
                "the limit of this server: --body-bytes-max; a route takes more with CWEB_BODY_MIB(n) in its flags, up to the operator's \
                 --route-body-bytes-max"
            }
        };
        ServerAnswer::text(413, format!("the body is larger than {limit} bytes, {whose}\n"))
    }

    /// The answer to a body that proves too large while it arrives.
    pub(super) fn grown_too_large(&self, view: &RequestView<'_>) -> ServerAnswer {
        if admin::owns(view.path()) {
            return own_too_large(self.limits.own_body_bytes_max);
        }
        let route = self.declared(view);
        let limit = route.map_or(self.limits.body_bytes_max, |route| self.limits.route_body_bytes_max(route));
        self.too_large(limit, route)
    }

    /// Counts the received bytes of an incomplete body. If all such bodies together exceed the limit, this connection is
    /// answered 503.
    pub(super) fn gather(&mut self, connections: &mut Connections, conn: &mut Conn) {
        self.ungather(conn);
        conn.gathered = conn.body_bytes();
        self.gathered_bytes += conn.gathered;
        if self.gathered_bytes > self.limits.bodies_bytes_max {
            self.stats.overloaded();
            let answer = ServerAnswer::text(503, "too many request bodies at once\n").with("Retry-After", "1");
            let head_only = conn.decoder.refused_head(&[]);
            self.trace_refused(connections, conn, answer.status);
            self.answer_last(connections, conn, &answer, head_only);
            // The body is released now; otherwise other connections' bodies would be refused until this connection ends.
            self.discard_body(conn);
        }
    }

    /// Ends the count for the body of `conn`, which is complete or will never be.
    pub(super) fn ungather(&mut self, conn: &mut Conn) {
        self.gathered_bytes = self.gathered_bytes.saturating_sub(std::mem::take(&mut conn.gathered));
    }
}

/// Like [`Shard::too_large`], for one of the server's own paths.
fn own_too_large(limit: usize) -> ServerAnswer {
    ServerAnswer::text(
        413,
        format!("the body is larger than {limit} bytes; the operator allows more with --mgnt-body-bytes-max\n"),
    )
}
