//! The master's end of the tunnels: which nodes are connected, and requests sent to them.

use axum::body::Body;
use http::{Request, Response};

/// The nodes that hold a tunnel to this master. Cheap to clone.
#[derive(Clone, Default)]
pub struct Nodes {}

impl Nodes {
    /// Answers a node's `GET /orchd/v1/tunnel` (an HTTP/1.1 upgrade): keeps the connection as that node's tunnel.
    pub async fn accept(&self, _node: &str, _request: Request<Body>) -> Response<Body> {
        unimplemented!("the tunnel")
    }
}
