//! SPDY/3.1 sessions (draft-mbelshe-httpbis-spdy-00), as far as Kubernetes' remote commands use it: the client opens one
//! stream per channel, named by its `streamtype` header. Flow control is left out on both sides, as clients do.

use super::exec::{ClientEnd, QUEUE, Wanted};
use super::spdy_wire::{HeaderReader, HeaderWriter, SpdyError, SpdyFrame, data_frame, ping_frame, take_frame};
use crate::client::tunnel::{Frame, channel};
use crate::meta::Status;
use axum::body::Body;
use bytes::BytesMut;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

type Io = TokioIo<Upgraded>;

const UPGRADE: &str = "SPDY/3.1";
const PROTOCOL_HEADER: &str = "x-stream-protocol-version";
/// Protocols that we speak, the best first. v2 and v1 lack the exit code and are long gone from clients.
const PROTOCOLS: [&str; 3] = ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"];
/// How long a client may take to open its streams.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to close after us.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_DATA_BYTES: usize = 32 << 10;

/// Stream numbers of the channels; 0: not opened.
#[derive(Clone, Copy, Debug, Default)]
struct Streams {
    stdin: u32,
    stdout: u32,
    stderr: u32,
    status: u32,
    resize: u32,
}

impl Streams {
    fn open(&mut self, kind: &str, id: u32) {
        match kind {
            "stdin" => self.stdin = id,
            "stdout" => self.stdout = id,
            "stderr" => self.stderr = id,
            "error" => self.status = id,
            "resize" => self.resize = id,
            _ => {}
        }
    }
    fn complete(&self, wanted: Wanted) -> bool {
        let there = |on: bool, id: u32| !on || id != 0;
        self.status != 0
            && there(wanted.stdin, self.stdin)
            && there(wanted.stdout, self.stdout)
            && there(wanted.stderr, self.stderr)
            && there(wanted.tty, self.resize)
    }
    fn channel_of(&self, id: u32) -> Option<u8> {
        match id {
            0 => None,
            id if id == self.stdin => Some(channel::STDIN),
            id if id == self.resize => Some(channel::RESIZE),
            _ => None,
        }
    }
    fn stream_of(&self, number: u8) -> Option<u32> {
        let id = match number {
            channel::STDOUT => self.stdout,
            channel::STDERR => self.stderr,
            channel::STATUS => self.status,
            _ => 0,
        };
        (id != 0).then_some(id)
    }
}

/// A remote command over SPDY.
pub(super) fn command(mut request: Request<Body>, wanted: Wanted) -> Result<(Response<Body>, ClientEnd), Status> {
    let asked = request.headers().get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !asked.eq_ignore_ascii_case(UPGRADE) {
        return Err(Status::bad_request("unable to upgrade: missing upgrade headers in request"));
    }
    let offered = request.headers().get_all(PROTOCOL_HEADER).iter().filter_map(|v| v.to_str().ok());
    let offered: Vec<&str> = offered.flat_map(|v| v.split(',')).map(str::trim).collect();
    let protocol = PROTOCOLS.into_iter().find(|p| offered.contains(p));
    let protocol = protocol.ok_or_else(|| {
        Status::bad_request(format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {PROTOCOLS:?}"
        ))
    })?;
    let (to_node, incoming) = mpsc::channel(QUEUE);
    let (outgoing, from_node) = mpsc::channel(QUEUE);
    let gone = CancellationToken::new();
    let ended = gone.clone();
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => {
                if let Err(error) = session(TokioIo::new(io), wanted, to_node, from_node).await {
                    tracing::debug!(%error, "a SPDY session ended early");
                }
            }
            Err(error) => tracing::debug!(%error, "a client did not switch to SPDY"),
        }
        ended.cancel();
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(UPGRADE));
    headers.insert(PROTOCOL_HEADER, HeaderValue::from_static(protocol));
    Ok((response, ClientEnd { incoming, outgoing, gone }))
}

/// What the reading half tells the writing half.
enum Control {
    Opened { id: u32, kind: String },
    Ping(u32),
}

/// Runs until the command has ended, or the client has gone.
async fn session(io: Io, wanted: Wanted, to_node: mpsc::Sender<Frame>, from_node: mpsc::Receiver<Frame>) -> Result<(), SpdyError> {
    let (read_half, write_half) = tokio::io::split(io);
    let (to_writer, controls) = mpsc::channel(QUEUE);
    let mut reading = std::pin::pin!(read(read_half, to_writer, to_node));
    tokio::select! {
        done = write(write_half, wanted, controls, from_node) => {
            done?;
            // Whoever closes with unread input resets the connection, and the client may lose what it has not read yet.
            timeout(CLOSE_TIMEOUT, reading).await.unwrap_or(Ok(()))
        }
        done = &mut reading => done,
    }
}

/// Client to node, until the client closes.
async fn read(mut io: ReadHalf<Io>, to_writer: mpsc::Sender<Control>, to_node: mpsc::Sender<Frame>) -> Result<(), SpdyError> {
    let (mut buffer, mut headers, mut streams) = (BytesMut::new(), HeaderReader::new(), Streams::default());
    loop {
        while let Some(frame) = take_frame(&mut buffer)? {
            // Either receiver may have ended with the command; the rest of the client's input is nobody's then.
            match frame {
                SpdyFrame::Open { id, block } => {
                    let kind = headers.read(&block)?.into_iter().find(|(name, _)| name == "streamtype").map(|(_, v)| v).unwrap_or_default();
                    streams.open(&kind, id);
                    drop(to_writer.send(Control::Opened { id, kind }).await);
                }
                SpdyFrame::Data { id, last, payload } => {
                    let Some(number) = streams.channel_of(id) else { continue };
                    if !payload.is_empty() {
                        drop(to_node.send(Frame::new(number, payload)).await);
                    }
                    if last {
                        drop(to_node.send(Frame::new(channel::CLOSE, vec![number])).await);
                    }
                }
                SpdyFrame::Reset { id } => {
                    if let Some(number) = streams.channel_of(id) {
                        drop(to_node.send(Frame::new(channel::CLOSE, vec![number])).await);
                    }
                }
                SpdyFrame::Ping { id } => drop(to_writer.send(Control::Ping(id)).await),
                SpdyFrame::GoAway => return Ok(()),
                SpdyFrame::Other => {}
            }
        }
        if io.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// Node to client, once the client's streams are open, until the command has ended.
async fn write(
    mut io: WriteHalf<Io>,
    wanted: Wanted,
    mut controls: mpsc::Receiver<Control>,
    mut from_node: mpsc::Receiver<Frame>,
) -> Result<(), SpdyError> {
    let (mut headers, mut streams) = (HeaderWriter::new()?, Streams::default());
    let deadline = tokio::time::Instant::now() + STREAMS_TIMEOUT;
    loop {
        let ready = streams.complete(wanted);
        tokio::select! {
            control = controls.recv() => match control {
                Some(Control::Opened { id, kind }) => {
                    streams.open(&kind, id);
                    io.write_all(&headers.reply(id, &[])?).await?;
                }
                Some(Control::Ping(id)) => io.write_all(&ping_frame(id)).await?,
                None => return Ok(()),
            },
            frame = from_node.recv(), if ready => match frame {
                Some(frame) => write_frame(&mut io, &streams, &frame).await?,
                None => return finish(&mut io, &streams).await,
            },
            () = tokio::time::sleep_until(deadline), if !ready => return Err(SpdyError::Slow),
        }
        io.flush().await?;
    }
}

async fn write_frame(io: &mut WriteHalf<Io>, streams: &Streams, frame: &Frame) -> Result<(), SpdyError> {
    let Some(id) = streams.stream_of(frame.channel) else { return Ok(()) };
    for part in frame.payload.chunks(MAX_DATA_BYTES) {
        io.write_all(&data_frame(id, false, part)).await?;
    }
    Ok(())
}

/// Ends every stream that the client reads, output first.
async fn finish(io: &mut WriteHalf<Io>, streams: &Streams) -> Result<(), SpdyError> {
    for id in [channel::STDOUT, channel::STDERR, channel::STATUS].into_iter().filter_map(|c| streams.stream_of(c)) {
        io.write_all(&data_frame(id, true, &[])).await?;
    }
    Ok(io.shutdown().await?)
}
