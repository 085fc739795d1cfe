//! Remote commands: a client's WebSocket or SPDY session on one side, the node's frames on the other.

use super::tunnel::Nodes;
use super::{Query, container_of, placed, spdy, websocket};
use crate::client::Target;
use crate::client::tunnel::{Frame, Frames, channel};
use crate::meta::Status;
use crate::watch::Snapshot;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Frames that wait in each direction; beyond it the sender waits.
pub(super) const QUEUE: usize = 32;

/// What a client asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// The client's end of a remote command, whatever it speaks.
pub(super) struct ClientEnd {
    /// What the client sends: stdin, resize, close.
    pub incoming: mpsc::Receiver<Frame>,
    /// What the client is sent; dropping it ends the session.
    pub outgoing: mpsc::Sender<Frame>,
    /// Cancelled when the client has gone.
    pub gone: CancellationToken,
}

pub(super) async fn serve(nodes: &Nodes, snapshot: &Snapshot, target: &Target, request: Request<Body>) -> Result<Response<Body>, Status> {
    let (pod, node) = placed(snapshot, target)?;
    let query = Query::of(&request);
    let container = container_of(&pod, query.get("container"))?;
    let wanted = Wanted {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr") && !query.flag("tty"),
        tty: query.flag("tty"),
    };
    if !wanted.stdin && !wanted.stdout && !wanted.stderr {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if query.all("command").next().is_none() {
        return Err(Status::bad_request("you must specify at least one command for the container"));
    }
    let path = path(target, &container, &query, wanted);
    let (to_node, node_body) = mpsc::channel::<Bytes>(QUEUE);
    let body = Body::from_stream(futures::stream::unfold(node_body, |mut receiver| async move {
        receiver.recv().await.map(|bytes| (Ok::<_, std::convert::Infallible>(bytes), receiver))
    }));
    let from_node = nodes.open(&node, &path, body).await?;
    let (response, client) =
        if websocket::is_upgrade(&request) { websocket::command(request, wanted)? } else { spdy::command(request, wanted)? };
    tokio::spawn(pump(client, to_node, from_node));
    Ok(response)
}

fn path(target: &Target, container: &str, query: &Query, wanted: Wanted) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    out.append_pair("namespace", target.namespace.as_deref().unwrap_or_default());
    out.append_pair("pod", target.name.as_deref().unwrap_or_default());
    out.append_pair("container", container);
    for argument in query.all("command") {
        out.append_pair("command", argument);
    }
    for (key, on) in [("stdin", wanted.stdin), ("stdout", wanted.stdout), ("stderr", wanted.stderr), ("tty", wanted.tty)] {
        if on {
            out.append_pair(key, "1");
        }
    }
    format!("/exec?{}", out.finish())
}

/// Carries frames both ways until the command has ended or the client is gone.
async fn pump(client: ClientEnd, to_node: mpsc::Sender<Bytes>, from_node: Incoming) {
    let ClientEnd { mut incoming, outgoing, gone } = client;
    let up = async move {
        while let Some(frame) = incoming.recv().await {
            if to_node.send(frame.encode()).await.is_err() {
                break;
            }
        }
        // The node's body stays open: the command goes on without input.
        std::future::pending::<()>().await;
    };
    let down = async move {
        if let Err(why) = relay(from_node, &outgoing).await {
            let status = Status::internal(why).to_value().to_string();
            // The client may be gone; then there is nobody to tell.
            drop(outgoing.send(Frame::new(channel::STATUS, status)).await);
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
        () = gone.cancelled() => {}
    }
}

/// Passes the node's frames on. Ends after the status, or when nobody listens any more.
async fn relay(mut from_node: Incoming, outgoing: &mpsc::Sender<Frame>) -> Result<(), String> {
    let mut frames = Frames::default();
    while let Some(part) = from_node.frame().await {
        let part = part.map_err(|e| format!("the connection to the node broke off: {e}"))?;
        frames.push(&part.into_data().unwrap_or_default());
        while let Some(frame) = frames.next_frame().map_err(|e| e.to_string())? {
            let last = frame.channel == channel::STATUS;
            if outgoing.send(frame).await.is_err() || last {
                return Ok(());
            }
        }
    }
    Err("the node ended the command's stream without a status".into())
}
