//! gRPC over HTTP/2, as much of it as a server needs: a message is a byte (0: not compressed), a length and protobuf; how
//! the call went stands in trailers. Written out here rather than taken from tonic's server so that a call costs one buffer
//! in, one buffer out and no boxes, and so that what is refused is refused in etcd's words (docs/decisions/0009).
//!
//! May import: `etcd::status`.

use super::status::{Code, Status};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::Stream;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::OwnedSemaphorePermit;

/// The largest message that is read: etcd's 1.5 MiB for a request, and what it allows on top for what surrounds it.
pub const MESSAGE_BYTES: usize = (1536 << 10) + (512 << 10);
/// A message's head.
const HEAD: usize = 5;
/// Messages of a stream that are ready together go out together, up to about so many bytes.
const CHUNK: usize = 32 << 10;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// What is sent back.
pub enum Reply {
    /// No body: the status is in the headers, or this is no gRPC.
    Empty,
    /// Plain bytes.
    Plain(Bytes),
    /// One message, then an OK. What it holds back of the server's memory comes free with it.
    Message(Option<Bytes>, Option<OwnedSemaphorePermit>),
    /// Messages as they come, then how it went.
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let (frame, next) = match this {
            Self::Empty => return Poll::Ready(None),
            Self::Plain(bytes) => (Frame::data(std::mem::take(bytes)), Self::Empty),
            Self::Message(bytes, permit) => match bytes.take() {
                // The permit stays until the transport comes for the trailers, which it does once the bytes are written.
                Some(bytes) => (Frame::data(bytes), Self::Message(None, permit.take())),
                None => (Frame::trailers(trailers(None)), Self::Empty),
            },
            Self::Stream(stream) => match ready!(stream.as_mut().poll_next(context)) {
                Some(Ok(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Err(status)) => (Frame::trailers(trailers(Some(&status))), Self::Empty),
                None => (Frame::trailers(trailers(None)), Self::Empty),
            },
        };
        *this = next;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Plain(bytes) => SizeHint::with_exact(bytes.len() as u64),
            _ => SizeHint::default(),
        }
    }
}

fn trailers(status: Option<&Status>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(2);
    describe(&mut headers, status);
    headers
}

fn describe(headers: &mut HeaderMap, status: Option<&Status>) {
    let Some(status) = status else {
        headers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        return;
    };
    headers.insert(GRPC_STATUS, HeaderValue::from(status.code as u16));
    if let Ok(message) = HeaderValue::from_str(&escaped(&status.message)) {
        headers.insert(GRPC_MESSAGE, message);
    }
}

/// Percent-encodes what may not stand in a header.
fn escaped(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => out.push_str(&format!("%{byte:02X}")),
            plain => out.push(char::from(plain)),
        }
    }
    out
}

fn response(body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

/// An answer that is an error.
pub fn refusal(status: &Status) -> Response<Reply> {
    let mut response = response(Reply::Empty);
    describe(response.headers_mut(), Some(status));
    response
}

/// An answer of one message, which takes `len` bytes.
pub fn answer(message: &impl Encode, len: usize, permit: Option<OwnedSemaphorePermit>) -> Response<Reply> {
    let mut out = BytesMut::with_capacity(HEAD + len);
    append(message, len, &mut out);
    response(Reply::Message(Some(out.freeze()), permit))
}

/// What can be sent: a message, or what encodes like one.
pub trait Encode {
    fn size(&self) -> usize;
    fn write(&self, out: &mut BytesMut);
}

impl<M: Message> Encode for M {
    fn size(&self) -> usize {
        self.encoded_len()
    }

    fn write(&self, out: &mut BytesMut) {
        self.encode_raw(out);
    }
}

/// An answer of many messages.
pub fn stream<M: Encode>(messages: impl Stream<Item = Result<M, Status>> + Send + 'static) -> Response<Reply> {
    response(Reply::Stream(Box::pin(Chunks { messages: Box::pin(messages), ended: None })))
}

/// A plain HTTP answer.
pub fn plain(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response<Reply> {
    let mut response = Response::new(Reply::Plain(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Appends a message with its head.
fn append(message: &impl Encode, len: usize, out: &mut BytesMut) {
    out.reserve(HEAD + len);
    out.put_u8(0);
    out.put_u32(len as u32);
    message.write(out);
}

/// Puts messages that are ready at the same time into one piece.
struct Chunks<S> {
    messages: Pin<Box<S>>,
    ended: Option<Option<Status>>,
}

impl<M: Encode, S: Stream<Item = Result<M, Status>>> Stream for Chunks<S> {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut out = BytesMut::new();
        while self.ended.is_none() && out.len() < CHUNK {
            match self.messages.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(message))) => append(&message, message.size(), &mut out),
                Poll::Ready(Some(Err(status))) => self.ended = Some(Some(status)),
                Poll::Ready(None) => self.ended = Some(None),
                Poll::Pending => break,
            }
        }
        if !out.is_empty() {
            return Poll::Ready(Some(Ok(out.freeze())));
        }
        match self.ended.take() {
            None => Poll::Pending,
            Some(status) => {
                self.ended = Some(None);
                Poll::Ready(status.map(Err))
            }
        }
    }
}

/// Takes messages out of what arrives, in pieces of any size.
struct Deframer {
    buffer: BytesMut,
    /// The first piece, which most often is the only one: used as it is.
    whole: Bytes,
}

impl Deframer {
    const fn new(buffer: BytesMut) -> Self {
        Self { buffer, whole: Bytes::new() }
    }

    fn push(&mut self, data: Bytes) {
        if self.buffer.is_empty() && self.whole.is_empty() {
            self.whole = data;
            return;
        }
        if !self.whole.is_empty() {
            let whole = std::mem::take(&mut self.whole);
            self.buffer.extend_from_slice(&whole);
        }
        self.buffer.extend_from_slice(&data);
    }

    fn held(&self) -> &[u8] {
        if self.whole.is_empty() { &self.buffer } else { &self.whole }
    }

    /// The next message's bytes, if all of them are here.
    fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((head, rest)) = self.held().split_first_chunk::<HEAD>() else { return Ok(None) };
        let [compressed, a, b, c, d] = *head;
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if compressed != 0 {
            return Err(Status::new(Code::Unimplemented, "grpc: compressed messages are not taken"));
        }
        if len > MESSAGE_BYTES {
            return Err(Status::text(
                Code::ResourceExhausted,
                format!("grpc: received message larger than max ({len} vs. {MESSAGE_BYTES})"),
            ));
        }
        if rest.len() < len {
            return Ok(None);
        }
        if self.whole.is_empty() {
            self.buffer.advance(HEAD);
            return Ok(Some(self.buffer.split_to(len).freeze()));
        }
        self.whole.advance(HEAD);
        Ok(Some(self.whole.split_to(len)))
    }
}

fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, Status> {
    M::decode(bytes).map_err(|error| Status::text(Code::Internal, format!("grpc: error unmarshalling request: {error}")))
}

fn cut_off(error: &hyper::Error) -> Status {
    Status::text(Code::Canceled, format!("the request broke off: {error}"))
}

/// Reads a request of one message.
///
/// # Errors
/// It is too large, broken off, or not what it should be.
pub async fn message<M: Message + Default>(mut body: Incoming) -> Result<M, Status> {
    let mut deframer = Deframer::new(BytesMut::new());
    let mut found = None;
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let Ok(data) = frame.map_err(|error| cut_off(&error))?.into_data() else { continue };
        if found.is_some() && !data.is_empty() {
            return Err(Status::new(Code::Internal, "grpc: more than one message in a request of one"));
        }
        deframer.push(data);
        if found.is_none() {
            found = deframer.next()?;
        }
    }
    if !deframer.held().is_empty() {
        return Err(Status::new(Code::Internal, "grpc: a request that does not end where its message does"));
    }
    decode(found.ok_or(Status::new(Code::Internal, "grpc: a request without a message"))?)
}

/// The messages of a request that has many.
pub struct Messages<M> {
    body: Incoming,
    deframer: Deframer,
    kind: PhantomData<fn() -> M>,
}

impl<M> Messages<M> {
    pub fn new(body: Incoming) -> Self {
        Self { body, deframer: Deframer::new(BytesMut::new()), kind: PhantomData }
    }
}

impl<M: Message + Default> Stream for Messages<M> {
    type Item = Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(bytes) = self.deframer.next()? {
                return Poll::Ready(Some(decode(bytes)));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(cut_off(&error)))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.deframer.push(data);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fuzz::fuzz;

    /// Whatever the pieces are that it comes in: the messages are those of the whole.
    #[test]
    fn messages_in_any_bytes_and_pieces() {
        let message = |text: &[u8]| [&[0, 0, 0, 0, text.len() as u8], text].concat();
        let seeds = [[message(b"one"), message(b""), message(&[7; 200])].concat(), message(b"alone")];
        let read = |bytes: &[u8], piece: usize| {
            let (mut deframer, mut found) = (Deframer::new(BytesMut::new()), Vec::new());
            for piece in bytes.chunks(piece) {
                deframer.push(Bytes::copy_from_slice(piece));
                while let Some(message) = deframer.next().map_err(|status| status.code as u16)? {
                    found.push(message);
                }
            }
            Ok::<_, u16>((found, deframer.held().to_vec()))
        };
        let mut sizes = (1..40).cycle();
        fuzz("messages", &seeds, |bytes| {
            let whole = read(bytes, bytes.len().max(1));
            assert_eq!(read(bytes, sizes.next().unwrap_or(1)), whole);
            whole.is_ok_and(|(_, rest)| rest.is_empty())
        });
    }
}
