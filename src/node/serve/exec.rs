//! A command in a container: frames in (stdin, resize), frames out (stdout, stderr, and at the end the status).

use super::{ExecRequest, Pods, Query};
use crate::client::tunnel::{Frame, Frames, channel};
use crate::meta::Status;
use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use orchd_runtime::spec::Exit;
use orchd_runtime::{ExecSession, StartError};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

const QUEUE: usize = 32;
const READ_BYTES: usize = 32 << 10;

pub(super) async fn serve(pods: &dyn Pods, query: &Query, body: Incoming) -> Result<Response<Body>, Status> {
    let request = ExecRequest { command: query.all("command"), stdin: query.flag("stdin"), tty: query.flag("tty") };
    let started = pods.exec(query.text("namespace"), query.text("pod"), query.text("container"), request).await;
    let (out, frames) = mpsc::channel::<Frame>(QUEUE);
    match started {
        Ok(session) => drop(tokio::spawn(run(session, body, out))),
        // A command that does not start is told as its status: the client's session stands already by its protocol.
        Err(status) if status.code >= 500 => {
            out.send(Frame::new(channel::STATUS, status.to_value().to_string())).await.map_err(Status::internal)?;
        }
        Err(status) => return Err(status),
    }
    let stream = futures::stream::unfold(frames, |mut frames| async move {
        frames.recv().await.map(|frame| (Ok::<Bytes, std::convert::Infallible>(frame.encode()), frames))
    });
    Ok(Response::new(Body::from_stream(stream)))
}

/// Carries the session until the command has ended and its output has been read, or the master has gone.
async fn run(session: ExecSession, body: Incoming, out: mpsc::Sender<Frame>) {
    let ExecSession { stdin, stdout, stderr, resize, exit } = session;
    let input = tokio::spawn(feed(body, stdin, resize));
    let output = copy_out(stdout, channel::STDOUT, &out);
    let errors = async {
        if let Some(stderr) = stderr {
            copy_out(stderr, channel::STDERR, &out).await;
        }
    };
    let end = async {
        tokio::join!(output, errors);
        exit.await
    };
    tokio::select! {
        exit = end => {
            let exit = exit.unwrap_or_else(|_| Err(StartError::Shim("the command's end was not reported".into())));
            // The master may have gone; then there is nobody to tell.
            drop(out.send(Frame::new(channel::STATUS, status_of(&exit).to_string())).await);
        }
        () = out.closed() => {}
    }
    input.abort();
}

/// Frames of the master to stdin and the terminal.
async fn feed(mut body: Incoming, mut stdin: Option<tokio::fs::File>, resize: mpsc::Sender<(u16, u16)>) {
    let mut frames = Frames::default();
    while let Some(Ok(part)) = body.frame().await {
        frames.push(&part.into_data().unwrap_or_default());
        while let Ok(Some(frame)) = frames.next_frame() {
            match frame.channel {
                channel::STDIN => {
                    let Some(file) = &mut stdin else { continue };
                    if file.write_all(&frame.payload).await.is_err() || file.flush().await.is_err() {
                        // The command reads no more.
                        stdin = None;
                    }
                }
                channel::CLOSE if frame.payload.first() == Some(&channel::STDIN) => stdin = None,
                channel::RESIZE => {
                    if let Ok(size) = serde_json::from_slice::<TerminalSize>(&frame.payload) {
                        let sent = resize.send((size.width, size.height)).await;
                        tracing::trace!(told = sent.is_ok(), "terminal size");
                    }
                }
                _ => {}
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TerminalSize {
    width: u16,
    height: u16,
}

async fn copy_out(mut from: impl AsyncRead + Unpin, number: u8, out: &mpsc::Sender<Frame>) {
    let mut buffer = vec![0; READ_BYTES];
    // A terminal whose last process has gone reads as an error, not as an end.
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if out.send(Frame::new(number, Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
            return;
        }
    }
}

/// `metav1.Status` of a command's end, as the remote command protocol v4 has it.
fn status_of(exit: &Result<Exit, StartError>) -> Value {
    match exit {
        Ok(exit) if exit.code == 0 => json!({"metadata": {}, "status": "Success"}),
        Ok(exit) => json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {}", exit.code),
            "details": {"causes": [{"reason": "ExitCode", "message": exit.code.to_string()}]}}),
        Err(error) => Status::internal(error).to_value(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_travel_as_causes() {
        let exit = |code| Ok(Exit { code, signal: None, oom_killed: false, started_at_ns: 0, finished_at_ns: 0 });
        assert_eq!(status_of(&exit(0))["status"], "Success");
        let failed = status_of(&exit(42));
        assert_eq!(failed["details"]["causes"][0], json!({"reason": "ExitCode", "message": "42"}));
        assert_eq!(status_of(&Err(StartError::Shim("x".into())))["reason"], "InternalError");
    }
}
