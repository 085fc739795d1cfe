//! Subresources that are streams: pod log, exec, and the proxies of pods and services. All of them travel through the
//! tunnel that the pod's node holds open to this master.
//!
//! May import: meta, kinds, watch, client (its Target and the tunnel's protocol), and api's own.

mod exec;
mod log;
mod proxy;
mod spdy;
mod spdy_wire;
pub mod tunnel;
mod websocket;

use crate::client::Target;
use crate::kinds::{Pod, Ref};
use crate::meta::{Reason, Status};
use crate::watch::Snapshot;
use axum::body::Body;
use http::{HeaderValue, Request, Response, StatusCode, header};
use tunnel::Nodes;

/// Serves `log`, `exec` or `proxy` of `target` (its subresource says which). `rest` is what follows `/proxy/` in the path.
/// The caller has authorised the request; query, headers and body are as they came.
pub async fn serve(nodes: &Nodes, snapshot: &Snapshot, target: &Target, rest: &str, request: Request<Body>) -> Response<Body> {
    let answer = match target.subresource {
        Some("log") => log::serve(nodes, snapshot, target, request).await,
        Some("exec") => exec::serve(nodes, snapshot, target, request).await,
        Some("proxy") => proxy::serve(nodes, snapshot, target, rest, request).await,
        other => {
            Err(Status::new(Reason::MethodNotAllowed, format!("{} is not served by this version of orchd", other.unwrap_or_default())))
        }
    };
    answer.unwrap_or_else(|status| refuse(&status))
}

/// An error answer.
fn refuse(status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::from(status.to_value().to_string()));
    *response.status_mut() = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The query of a request, decoded.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(request: &Request<Body>) -> Self {
        Self(form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect())
    }
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }
    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }
    fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| v == "1" || v == "true")
    }
}

/// A pod and the node that runs it.
fn placed(snapshot: &Snapshot, target: &Target) -> Result<(Ref<Pod>, String), Status> {
    let (namespace, name) = (target.namespace.as_deref().unwrap_or_default(), target.name.as_deref().unwrap_or_default());
    let pod = snapshot.get::<Pod>(namespace, name).ok_or_else(|| Status::not_found("", "pods", name))?;
    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty());
    match node {
        Some(node) => Ok((pod, node)),
        None => Err(Status::bad_request(format!("pod {name} does not have a host assigned"))),
    }
}

/// The container that is meant: the named one, else the only one.
fn container_of(pod: &Ref<Pod>, asked: Option<&str>) -> Result<String, Status> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref().ok_or_else(|| Status::internal("a pod without spec"))?;
    let main: Vec<&str> = spec.containers.iter().map(|c| c.name.as_str()).collect();
    let init: Vec<&str> = spec.init_containers.iter().flatten().map(|c| c.name.as_str()).collect();
    match asked {
        Some(asked) if main.contains(&asked) || init.contains(&asked) => Ok(asked.to_owned()),
        Some(asked) => Err(Status::bad_request(format!("container {asked} is not valid for pod {name}"))),
        None if main.len() == 1 => Ok(main[0].to_owned()),
        None => {
            let mut text = format!("a container name must be specified for pod {name}, choose one of: [{}]", main.join(" "));
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(text))
        }
    }
}
