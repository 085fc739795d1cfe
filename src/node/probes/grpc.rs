//! gRPC health probes: grpc.health.v1.Health/Check, its two small messages written and read by hand.

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, header};

const SERVING: u64 = 1;
const MAX_ANSWER: usize = 64 * 1024;

/// Asks the health service; Ok if it serves. The caller bounds the time.
///
/// # Errors
/// Why it does not, in grpc_health_probe's and the kubelet's words.
pub async fn check(host: &str, port: u16, service: &str) -> Result<(), String> {
    let address = format!("{host}:{port}");
    let broken = |e: h2::Error| format!("error: health rpc failed: rpc error: code = Unavailable desc = {e}");
    let tcp = super::connect(host, port).await.map_err(|e| format!("error: failed to connect service \"{address}\": {e}"))?;
    let (sender, connection) = h2::client::handshake(tcp).await.map_err(broken)?;
    let task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    let result = exchange(sender, &address, service).await;
    drop(task);
    result
}

async fn exchange(sender: h2::client::SendRequest<Bytes>, address: &str, service: &str) -> Result<(), String> {
    let broken = |e: h2::Error| format!("error: health rpc failed: rpc error: code = Unavailable desc = {e}");
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::USER_AGENT, "kube-probe/1.35")
        .header(header::TE, "trailers")
        .body(())
        .map_err(|e| e.to_string())?;
    let mut sender = sender.ready().await.map_err(broken)?;
    let (response, mut stream) = sender.send_request(request, false).map_err(broken)?;
    stream.send_data(message(service), true).map_err(broken)?;
    let response = response.await.map_err(broken)?;
    let head = response.headers().clone();
    let mut body = response.into_body();
    let mut data = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(broken)?;
        body.flow_control().release_capacity(chunk.len()).map_err(broken)?;
        data.extend_from_slice(&chunk);
        if data.len() > MAX_ANSWER {
            return Err("error: health rpc failed: the answer is too long".into());
        }
    }
    let trailers = body.trailers().await.map_err(broken)?.unwrap_or(head);
    verdict(&trailers, &data, service)
}

/// The request: a frame's five bytes, then field 1, the service's name, unless it is empty.
fn message(service: &str) -> Bytes {
    let mut proto = BytesMut::new();
    if !service.is_empty() {
        proto.put_u8(0x0a);
        put_varint(&mut proto, service.len() as u64);
        proto.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(proto.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(proto.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&proto);
    frame.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value as u8) | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn verdict(trailers: &http::HeaderMap, data: &[u8], service: &str) -> Result<(), String> {
    let text = |name: &str| trailers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match text("grpc-status") {
        "" | "0" => {}
        "12" => return Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into()),
        code => {
            let message = text("grpc-message");
            return Err(format!("error: health rpc probe failed for service \"{service}\": code = {code} desc = {message}"));
        }
    }
    match status(data.get(5..).unwrap_or_default()) {
        Some(SERVING) => Ok(()),
        other => {
            let name = match other {
                Some(2) => "NOT_SERVING",
                Some(3) => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            };
            Err(format!("service unhealthy (responded with \"{name}\")"))
        }
    }
}

/// Field 1 of the answer; 0 (UNKNOWN) if it is absent, None if it cannot be read.
fn status(proto: &[u8]) -> Option<u64> {
    match proto {
        [] => Some(0),
        [0x08, rest @ ..] => {
            let mut value = 0u64;
            for (i, byte) in rest.iter().take(10).enumerate() {
                value |= u64::from(byte & 0x7f) << (7 * i).min(63);
                if byte & 0x80 == 0 {
                    return Some(value);
                }
            }
            None
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_protobuf_has_them() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        for (bytes, want) in [(&[0x08, 1][..], Some(1)), (&[], Some(0)), (&[0x08, 0x80, 0x01], Some(128)), (&[0x10, 1], None), (&[8], None)]
        {
            assert_eq!(status(bytes), want);
        }
    }

    #[tokio::test]
    async fn a_server_is_asked_and_believed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in [1u8, 2] {
                let (tcp, _) = listener.accept().await.unwrap();
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                tokio::spawn(async move {
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                        let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                        stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, answer]), false).unwrap();
                        let trailers = [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect();
                        stream.send_trailers(trailers).unwrap();
                    }
                });
            }
        });
        assert_eq!(check("127.0.0.1", port, "").await, Ok(()));
        assert_eq!(check("127.0.0.1", port, "x").await.unwrap_err(), "service unhealthy (responded with \"NOT_SERVING\")");
        assert!(check("127.0.0.1", 1, "").await.unwrap_err().contains("connection refused"));
    }
}
