//! The proxies of pods and services: a plain HTTP/1.1 call to an address behind a node, through that node's tunnel.

use super::placed;
use super::tunnel::Nodes;
use crate::client::Target;
use crate::kinds::{EndpointSlice, Pod, Ref, Service};
use crate::meta::{Reason, Status};
use crate::watch::Snapshot;
use axum::body::Body;
use http::{HeaderName, Request, Response, Uri, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rand::Rng;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const PIPE_BYTES: usize = 64 << 10;
/// Headers that concern one connection only (RFC 9110, 7.6.1), and the client's credentials.
const NOT_PASSED_ON: [HeaderName; 9] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::AUTHORIZATION,
    header::HOST,
];

/// Where a proxied call goes.
struct Destination {
    node: String,
    address: String,
    port: u16,
}

pub(super) async fn serve(
    nodes: &Nodes,
    snapshot: &Snapshot,
    target: &Target,
    rest: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let destination = match target.resource.names().plural {
        "pods" => to_pod(snapshot, target)?,
        "services" => to_service(snapshot, target)?,
        _ => return Err(Status::new(Reason::MethodNotAllowed, "the proxy of nodes is not served by this version of orchd")),
    };
    if rest.is_empty() && !request.uri().path().ends_with('/') {
        return Ok(to_directory(&request));
    }
    call(nodes, &destination, rest, request).await
}

/// A browser's relative links work only below a directory: send it there.
fn to_directory(request: &Request<Body>) -> Response<Body> {
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    let location = format!("{}/{query}", request.uri().path());
    Response::builder().status(301).header(header::LOCATION, location).body(Body::empty()).unwrap_or_default()
}

/// `[scheme:]name[:port]`, as the path names what is proxied to.
fn split_name(text: &str) -> Result<(&str, &str), Status> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [name] => Ok((name, "")),
        [name, port] => Ok((name, port)),
        ["" | "http", name, port] => Ok((name, port)),
        ["https", ..] => Err(Status::bad_request("the proxy speaks plain HTTP only")),
        _ => Err(Status::bad_request(format!("invalid request \"{text}\""))),
    }
}

fn to_pod(snapshot: &Snapshot, target: &Target) -> Result<Destination, Status> {
    let (name, port) = split_name(target.name.as_deref().unwrap_or_default())?;
    let (pod, node) = placed(snapshot, &Target { name: Some(name.to_owned()), ..target.clone() })?;
    let address = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty());
    let address = address.ok_or_else(|| Status::new(Reason::ServiceUnavailable, format!("pod {name} has no address yet")))?;
    let port = pod_port(&pod, port).ok_or_else(|| Status::bad_request(format!("pod {name} has no port {port}")))?;
    Ok(Destination { node, address, port })
}

/// A number, the name of a container's port, or (unnamed) the first port that the pod declares, else 80.
fn pod_port(pod: &Ref<Pod>, asked: &str) -> Option<u16> {
    let mut declared = pod.spec.as_ref()?.containers.iter().flat_map(|c| c.ports.iter().flatten());
    let port = |p: &k8s_openapi::api::core::v1::ContainerPort| u16::try_from(p.container_port).ok();
    if asked.is_empty() {
        return declared.next().map_or(Some(80), port);
    }
    asked.parse().ok().or_else(|| declared.find(|p| p.name.as_deref() == Some(asked)).and_then(port))
}

fn to_service(snapshot: &Snapshot, target: &Target) -> Result<Destination, Status> {
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let (name, port) = split_name(target.name.as_deref().unwrap_or_default())?;
    let service = snapshot.get::<Service>(namespace, name).ok_or_else(|| Status::not_found("", "services", name))?;
    let unavailable = |why: &str| Status::new(Reason::ServiceUnavailable, why);
    let port_name =
        service_port(&service, port).ok_or_else(|| unavailable(&format!("no service port {port:?} found for service {name:?}")))?;
    let mut ready = Vec::new();
    for slice in slices_of(snapshot, namespace, name) {
        let wanted = slice.ports.iter().flatten().find(|p| p.name.as_deref().unwrap_or_default() == port_name);
        let Some(port) = wanted.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) else { continue };
        for endpoint in slice.endpoints.iter().filter(|e| e.conditions.as_ref().is_none_or(|c| c.ready != Some(false))) {
            if let (Some(address), Some(node)) = (endpoint.addresses.first(), &endpoint.node_name) {
                ready.push(Destination { node: node.clone(), address: address.clone(), port });
            }
        }
    }
    if ready.is_empty() {
        return Err(unavailable(&format!("no endpoints available for service {name:?}")));
    }
    Ok(ready.swap_remove(rand::rng().random_range(0..ready.len())))
}

fn slices_of<'a>(snapshot: &'a Snapshot, namespace: &'a str, service: &'a str) -> impl Iterator<Item = Ref<EndpointSlice>> + 'a {
    let of_service = move |slice: &Ref<EndpointSlice>| {
        slice.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name")).is_some_and(|s| s == service)
    };
    snapshot.list::<EndpointSlice>(Some(namespace)).filter(of_service)
}

/// The name under which slices carry the port that is asked for by number, name, or not at all (the only one).
fn service_port(service: &Ref<Service>, asked: &str) -> Option<String> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    let found = match asked {
        "" if ports.len() == 1 => ports.first(),
        "" => None,
        _ => ports
            .iter()
            .find(|p| p.name.as_deref() == Some(asked) || p.port.to_string() == asked || is_target(p.target_port.as_ref(), asked)),
    };
    found.map(|p| p.name.clone().unwrap_or_default())
}

fn is_target(port: Option<&IntOrString>, asked: &str) -> bool {
    match port {
        Some(IntOrString::Int(number)) => number.to_string() == asked,
        Some(IntOrString::String(name)) => name == asked,
        None => false,
    }
}

async fn call(nodes: &Nodes, to: &Destination, rest: &str, request: Request<Body>) -> Result<Response<Body>, Status> {
    let failed = |why: &dyn std::fmt::Display| {
        Status::new(Reason::ServiceUnavailable, format!("error trying to reach service: {}:{}: {why}", to.address, to.port))
    };
    let io = dial(nodes, to).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|e| failed(&e))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    let (mut parts, body) = request.into_parts();
    let query = parts.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    parts.uri = format!("/{rest}{query}").parse::<Uri>().map_err(|e| Status::bad_request(e.to_string()))?;
    parts.version = http::Version::HTTP_11;
    for name in NOT_PASSED_ON {
        parts.headers.remove(name);
    }
    let host = format!("{}:{}", to.address, to.port);
    parts.headers.insert(header::HOST, host.parse().map_err(|_| Status::internal("an address that is no header"))?);
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(Request::from_parts(parts, body))).await;
    let response = answer.map_err(|_| failed(&"no answer in time"))?.map_err(|e| failed(&e))?;
    let (mut parts, body) = response.into_parts();
    for name in NOT_PASSED_ON {
        parts.headers.remove(name);
    }
    parts.version = http::Version::default();
    Ok(Response::from_parts(parts, Body::new(body)))
}

/// A byte stream to the destination: a pipe of our own whose other end is carried by the tunnel.
async fn dial(nodes: &Nodes, to: &Destination) -> Result<tokio::io::DuplexStream, Status> {
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let (read, mut write) = tokio::io::split(theirs);
    let up = Body::from_stream(ReaderStream::with_capacity(read, PIPE_BYTES));
    let mut down = nodes.open(&to.node, &format!("/dial?address={}&port={}", to.address, to.port), up).await?;
    tokio::spawn(async move {
        while let Some(Ok(part)) = down.frame().await {
            if write.write_all(&part.into_data().unwrap_or_default()).await.is_err() {
                return;
            }
        }
        // The other half may be gone already.
        drop(write.shutdown().await);
    });
    Ok(ours)
}
