//! Subresources that are streams: pod log, exec, attach, port-forward, and the proxies of pods, services and nodes. All of
//! them travel through the tunnel that the pod's node holds open to this master.
//!
//! May import: meta, kinds, watch, client (its Target), and api's own.

pub mod tunnel;

use crate::client::Target;
use crate::watch::Snapshot;
use axum::body::Body;
use http::{Request, Response};
use tunnel::Nodes;

/// Serves `log`, `exec`, `attach`, `portforward` or `proxy` of `target` (its subresource says which). `rest` is what follows
/// `/proxy/` in the path. The caller has authorised the request; query, headers and body are as they came.
pub async fn serve(_nodes: &Nodes, _snapshot: &Snapshot, _target: &Target, _rest: &str, _request: Request<Body>) -> Response<Body> {
    unimplemented!("the streams")
}
