//! Pod logs: the node reads them, this passes them on, as a plain body or over a WebSocket.

use super::tunnel::Nodes;
use super::{Query, container_of, placed, websocket};
use crate::client::Target;
use crate::meta::Status;
use crate::watch::Snapshot;
use axum::body::Body;
use http::{HeaderValue, Request, Response, header};

/// What the node is told of the client's query.
const OPTIONS: [&str; 8] = ["previous", "follow", "tailLines", "sinceSeconds", "sinceTime", "timestamps", "limitBytes", "stream"];

pub(super) async fn serve(nodes: &Nodes, snapshot: &Snapshot, target: &Target, request: Request<Body>) -> Result<Response<Body>, Status> {
    let (pod, node) = placed(snapshot, target)?;
    let query = Query::of(&request);
    let container = container_of(&pod, query.get("container"))?;
    let path = path(target, &container, &query)?;
    let body = nodes.open(&node, &path, Body::empty()).await?;
    if websocket::is_upgrade(&request) {
        return websocket::stream_bytes(request, body);
    }
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

fn path(target: &Target, container: &str, query: &Query) -> Result<String, Status> {
    for number in ["tailLines", "sinceSeconds", "limitBytes"] {
        let Some(text) = query.get(number) else { continue };
        let least = i64::from(number != "tailLines");
        if text.parse::<i64>().ok().is_none_or(|n| n < least) {
            let bound = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            return Err(Status::bad_request(format!("{number}: Invalid value: \"{text}\": {bound}")));
        }
    }
    if query.get("sinceSeconds").is_some() && query.get("sinceTime").is_some() {
        return Err(Status::bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    let mut out = form_urlencoded::Serializer::new(String::new());
    out.append_pair("namespace", target.namespace.as_deref().unwrap_or_default());
    out.append_pair("pod", target.name.as_deref().unwrap_or_default());
    out.append_pair("container", container);
    for key in OPTIONS {
        if let Some(value) = query.get(key) {
            out.append_pair(key, value);
        }
    }
    Ok(format!("/logs?{}", out.finish()))
}
