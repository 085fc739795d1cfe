//! The ceiling: a bare tonic server that answers every put and get at once, from nothing.

use bytes::{Buf, BufMut, Bytes};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};

const REVISION: i64 = 2;

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(input.copy_to_bytes(input.remaining())))
    }
}

/// One answer for every call of a method.
#[derive(Clone)]
struct Always(Bytes);

impl UnaryService<Bytes> for Always {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        std::future::ready(if request.get_ref().is_empty() {
            Err(Status::invalid_argument("an empty request"))
        } else {
            Ok(Response::new(self.0.clone()))
        })
    }
}

#[derive(Clone)]
struct Kv {
    put: Always,
    get: Always,
}

impl NamedService for Kv {
    const NAME: &'static str = "etcdserverpb.KV";
}

impl tonic::codegen::Service<http::Request<Body>> for Kv {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = if request.uri().path().ends_with("/Put") { self.put.clone() } else { self.get.clone() };
        Box::pin(async move { Ok(Grpc::new(Raw).unary(method, request).await) })
    }
}

fn header() -> Vec<u8> {
    let mut header = Vec::new();
    for (field, value) in [(1, i64::MAX), (2, i64::MAX), (3, REVISION), (4, 1)] {
        super::proto::int(&mut header, field, value);
    }
    let mut answer = Vec::new();
    super::proto::bytes(&mut answer, 1, &header);
    answer
}

/// Serves until the process ends.
pub async fn serve(listen: SocketAddr, value_bytes: usize) {
    let put = Always(header().into());
    let mut kv = Vec::new();
    super::proto::put(&mut kv, &super::loads::key(0), &[]);
    super::proto::bytes(&mut kv, 5, &vec![b'v'; value_bytes]);
    let mut get = header();
    super::proto::bytes(&mut get, 2, &kv);
    super::proto::int(&mut get, 4, 1);
    let kv = Kv { put, get: Always(get.into()) };
    tonic::transport::Server::builder().add_service(kv).serve(listen).await.expect("the stub serves");
}
