//! WebSocket sessions (RFC 6455): remote commands in Kubernetes' channel protocols, and plain byte streams (logs).
//!
//! Every message begins with its channel's number; `v5.channel.k8s.io` adds a close message (255 and the channel) from the
//! client. Before v4 the status channel carries an error's text, and nothing on success. The base64 protocols carry text.

use super::exec::{ClientEnd, QUEUE, Wanted};
use crate::client::tunnel::{Frame, channel};
use crate::meta::Status;
use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The largest message that a client may send.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// How long a client may take to close after us.
const CLOSE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// How a session's messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Protocol {
    name: &'static str,
    version: u8,
    base64: bool,
}

const COMMAND_PROTOCOLS: &[Protocol] = &[
    Protocol { name: "v5.channel.k8s.io", version: 5, base64: false },
    Protocol { name: "v4.channel.k8s.io", version: 4, base64: false },
    Protocol { name: "v4.base64.channel.k8s.io", version: 4, base64: true },
    Protocol { name: "channel.k8s.io", version: 1, base64: false },
    Protocol { name: "base64.channel.k8s.io", version: 1, base64: true },
];

const BYTE_PROTOCOLS: &[Protocol] =
    &[Protocol { name: "binary.k8s.io", version: 1, base64: false }, Protocol { name: "base64.binary.k8s.io", version: 1, base64: true }];

pub(super) fn is_upgrade(request: &Request<Body>) -> bool {
    request.headers().get(header::UPGRADE).and_then(|v| v.to_str().ok()).is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
}

/// The first protocol that the client offers and we know; a client that offers none gets `default`.
fn choose(request: &Request<Body>, known: &[Protocol], default: &str) -> Option<(Protocol, bool)> {
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let offered: Vec<&str> = offered.flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect();
    if offered.is_empty() {
        return known.iter().find(|p| p.name == default).map(|p| (*p, false));
    }
    offered.iter().find_map(|o| known.iter().find(|p| p.name == *o)).map(|p| (*p, true))
}

/// Answers 101; the socket is given to `session` once the client has switched.
fn upgrade<F>(
    mut request: Request<Body>,
    protocol: Option<Protocol>,
    session: impl FnOnce(Socket) -> F + Send + 'static,
) -> Result<Response<Body>, Status>
where
    F: Future<Output = ()> + Send + 'static,
{
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| Status::bad_request("a WebSocket needs Sec-WebSocket-Key"))?;
    let accept = derive_accept_key(key.as_bytes());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => {
                let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES)).max_frame_size(Some(MAX_MESSAGE_BYTES));
                session(WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, Some(config)).await).await;
            }
            Err(error) => tracing::debug!(%error, "a client did not switch to WebSocket"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).map_err(Status::internal)?);
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol.name));
    }
    Ok(response)
}

/// A remote command over WebSocket.
pub(super) fn command(request: Request<Body>, wanted: Wanted) -> Result<(Response<Body>, ClientEnd), Status> {
    let (protocol, offered) = choose(&request, COMMAND_PROTOCOLS, "channel.k8s.io")
        .ok_or_else(|| Status::bad_request("none of the offered WebSocket protocols is known; offer v5.channel.k8s.io"))?;
    let (to_node, incoming) = mpsc::channel(QUEUE);
    let (outgoing, from_node) = mpsc::channel(QUEUE);
    let gone = CancellationToken::new();
    let ended = gone.clone();
    let response = upgrade(request, offered.then_some(protocol), move |socket| async move {
        let (sink, stream) = socket.split();
        let mut read = std::pin::pin!(async {
            read_commands(stream, protocol, to_node).await;
            ended.cancel();
        });
        tokio::select! {
            // Whoever closes a socket with unread input resets it, and the client may lose what it has not read yet.
            () = write_frames(sink, protocol, wanted, from_node) => drop(tokio::time::timeout(CLOSE_TIMEOUT, read).await),
            () = &mut read => {}
        }
    })?;
    Ok((response, ClientEnd { incoming, outgoing, gone }))
}

/// Client to node, until the client closes.
async fn read_commands(mut stream: SplitStream<Socket>, protocol: Protocol, to_node: mpsc::Sender<Frame>) {
    while let Some(Ok(message)) = stream.next().await {
        let data = match message {
            Message::Binary(data) => data,
            Message::Text(text) if protocol.base64 => match decode_text(text.as_bytes()) {
                Some(data) => data,
                None => return,
            },
            Message::Close(_) => return,
            _ => continue,
        };
        let Some((&number, payload)) = data.split_first() else { continue };
        // Whoever pumps may have ended with the command; the rest of the client's input is nobody's.
        drop(to_node.send(Frame::new(number, data.slice_ref(payload))).await);
    }
}

/// A text message of the base64 protocols: the channel's digit, then base64.
fn decode_text(text: &[u8]) -> Option<Bytes> {
    let (digit, rest) = text.split_first()?;
    let mut out = vec![digit.checked_sub(b'0')?];
    STANDARD.decode_vec(rest, &mut out).ok()?;
    Some(out.into())
}

/// Node to client, until the command has ended; then closes.
async fn write_frames(mut sink: SplitSink<Socket, Message>, protocol: Protocol, wanted: Wanted, mut from_node: mpsc::Receiver<Frame>) {
    // An empty message on each channel that the client reads tells it that the session stands.
    let channels = [(channel::STDOUT, wanted.stdout), (channel::STDERR, wanted.stderr), (channel::STATUS, true)];
    for number in channels.into_iter().filter(|(_, on)| *on).map(|(number, _)| number) {
        if sink.send(message(protocol, &Frame::new(number, Bytes::new()))).await.is_err() {
            return;
        }
    }
    while let Some(frame) = from_node.recv().await {
        let Some(frame) = translate(protocol, frame) else { continue };
        if sink.send(message(protocol, &frame)).await.is_err() {
            return;
        }
    }
    say_goodbye(&mut sink).await;
}

/// Closes as clients expect it of a session that went well. The client may have closed first.
async fn say_goodbye(sink: &mut SplitSink<Socket, Message>) {
    let close = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    drop(sink.send(Message::Close(Some(close))).await);
    drop(sink.close().await);
}

/// What a client of this protocol is told; None if nothing.
fn translate(protocol: Protocol, frame: Frame) -> Option<Frame> {
    match frame.channel {
        channel::STATUS if protocol.version < 4 => {
            let status: Value = serde_json::from_slice(&frame.payload).ok()?;
            let failed = status["status"] != "Success";
            failed.then(|| Frame::new(channel::STATUS, status["message"].as_str().unwrap_or("the command failed").to_owned()))
        }
        channel::CLOSE => None,
        _ => Some(frame),
    }
}

fn message(protocol: Protocol, frame: &Frame) -> Message {
    if protocol.base64 {
        return Message::text(format!("{}{}", frame.channel, STANDARD.encode(&frame.payload)));
    }
    let mut out = BytesMut::with_capacity(1 + frame.payload.len());
    out.put_u8(frame.channel);
    out.put_slice(&frame.payload);
    Message::Binary(out.freeze())
}

/// A byte stream over WebSocket, as `kubectl logs`' kin read it.
pub(super) fn stream_bytes(request: Request<Body>, mut body: Incoming) -> Result<Response<Body>, Status> {
    let chosen = choose(&request, BYTE_PROTOCOLS, "binary.k8s.io");
    let (protocol, offered) = chosen.ok_or_else(|| Status::bad_request("offer the WebSocket protocol binary.k8s.io"))?;
    upgrade(request, offered.then_some(protocol), move |socket| async move {
        let (mut sink, mut stream) = socket.split();
        let write = async {
            while let Some(Ok(part)) = body.frame().await {
                let data = part.into_data().unwrap_or_default();
                let message = if protocol.base64 { Message::text(STANDARD.encode(&data)) } else { Message::Binary(data) };
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            say_goodbye(&mut sink).await;
        };
        let read = async { while let Some(Ok(_)) = stream.next().await {} };
        tokio::select! {
            () = write => {}
            () = read => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: Protocol = Protocol { name: "channel.k8s.io", version: 1, base64: false };

    #[test]
    fn old_protocols_hear_of_failure_alone_and_in_words() {
        let success = Frame::new(channel::STATUS, r#"{"status":"Success"}"#);
        assert_eq!(translate(V1, success.clone()), None);
        assert_eq!(translate(COMMAND_PROTOCOLS[0], success.clone()), Some(success));
        let failure = Frame::new(channel::STATUS, r#"{"status":"Failure","message":"no"}"#);
        assert_eq!(translate(V1, failure), Some(Frame::new(channel::STATUS, "no")));
    }

    #[test]
    fn base64_messages_carry_their_channel_as_a_digit() {
        assert_eq!(decode_text(b"0aGk=").as_deref(), Some(&b"\0hi"[..]));
        assert_eq!(decode_text(b"0!"), None);
        assert_eq!(decode_text(b""), None);
    }

    #[test]
    fn the_clients_first_known_offer_wins() {
        let request = |offer: &str| Request::get("/").header("Sec-WebSocket-Protocol", offer).body(Body::empty()).unwrap();
        let name = |offer| choose(&request(offer), COMMAND_PROTOCOLS, "channel.k8s.io").map(|(p, _)| p.name);
        assert_eq!(name("x, v4.channel.k8s.io, v5.channel.k8s.io"), Some("v4.channel.k8s.io"));
        assert_eq!(name("x"), None);
        let none = Request::get("/").body(Body::empty()).unwrap();
        assert_eq!(choose(&none, COMMAND_PROTOCOLS, "channel.k8s.io").map(|(p, o)| (p.name, o)), Some(("channel.k8s.io", false)));
    }
}
