//! A TCP connection to one of this node's pods, its bytes carried by the request's and the answer's bodies.

use super::{Pods, Query};
use crate::meta::{Reason, Status};
use axum::body::Body;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio_util::io::ReaderStream;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 64 << 10;

pub(super) async fn serve(pods: &dyn Pods, query: &Query, body: Incoming) -> Result<Response<Body>, Status> {
    let address: IpAddr = query.text("address").parse().map_err(|_| Status::bad_request("no address to dial"))?;
    let port: u16 = query.text("port").parse().map_err(|_| Status::bad_request("no port to dial"))?;
    if !pods.has_address(address) {
        return Err(Status::new(Reason::NotFound, format!("no pod of this node has the address {address}")));
    }
    let unreachable = |why: &dyn std::fmt::Display| Status::new(Reason::ServiceUnavailable, format!("dial tcp {address}:{port}: {why}"));
    let connect = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(SocketAddr::new(address, port))).await;
    let stream = connect.map_err(|_| unreachable(&"i/o timeout"))?.map_err(|e| match e.kind() {
        std::io::ErrorKind::ConnectionRefused => unreachable(&"connect: connection refused"),
        _ => unreachable(&e),
    })?;
    stream.set_nodelay(true).map_err(|e| unreachable(&e))?;
    let (read, write) = stream.into_split();
    tokio::spawn(copy_up(body, write));
    Ok(Response::new(Body::from_stream(ReaderStream::with_capacity(read, READ_BYTES))))
}

/// Master to pod, until either ends.
async fn copy_up(mut body: Incoming, mut write: OwnedWriteHalf) {
    while let Some(Ok(part)) = body.frame().await {
        if write.write_all(&part.into_data().unwrap_or_default()).await.is_err() {
            return;
        }
    }
    // The pod may have closed first.
    drop(write.shutdown().await);
}
