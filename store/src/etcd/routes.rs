//! From a request's path to what answers it. May import: `etcd`.

use super::Face;
use super::status::{AUTH_NOT_ENABLED, Code, STOPPED, Status};
use super::watch::WatchStream;
use super::wire::{self, Encode, Messages, Reply};
use super::{pb::etcdserverpb as pb, pb::v3electionpb};
use futures::{FutureExt, Stream, StreamExt};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use prost::Message;
use std::sync::Arc;
use std::task::Poll;

/// How a client asks that a call fail when there is no leader.
const HAS_LEADER: &str = "hasleader";

/// Answers one request.
pub async fn answer(face: Arc<Face>, request: Request<Incoming>) -> Response<Reply> {
    let (head, body) = request.into_parts();
    if head.method == Method::GET {
        return face.plain(head.uri.path()).boxed().await;
    }
    if let Some(refusal) = unacceptable(&head.headers) {
        return refusal;
    }
    let needs_leader = head.headers.get(HAS_LEADER).is_some_and(|value| value == "true");
    if needs_leader && let Err(status) = face.needs_leader() {
        return wire::refusal(&status);
    }
    // The calls that count are answered without a detour; the others in a box, so that these stay small.
    match head.uri.path() {
        "/etcdserverpb.KV/Range" => unary(&face, body, |request| face.range(request)).await,
        "/etcdserverpb.KV/Put" => unary(&face, body, |request| face.put(request)).await,
        "/etcdserverpb.KV/Txn" => unary(&face, body, |request| face.txn(request)).await,
        path => others(&face, path, body, needs_leader).boxed().await,
    }
}

fn unacceptable(headers: &HeaderMap) -> Option<Response<Reply>> {
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    if !kind.starts_with(b"application/grpc") {
        return Some(wire::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "text/plain", "this is a gRPC service\n"));
    }
    match headers.get("grpc-encoding").map(|value| value.as_bytes()) {
        None | Some(b"identity") => None,
        Some(other) => {
            let name = String::from_utf8_lossy(other);
            let message = format!("grpc: Decompressor is not installed for grpc-encoding \"{name}\"");
            Some(wire::refusal(&Status::text(Code::Unimplemented, message)))
        }
    }
}

async fn others(face: &Arc<Face>, path: &str, body: Incoming, needs_leader: bool) -> Response<Reply> {
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
        return wire::refusal(&Status::text(Code::Unimplemented, format!("malformed method name: {path:?}")));
    };
    match service {
        "etcdserverpb.KV" => match method {
            "RangeStream" => streamed(async { face.range_stream(wire::message(body).await?).await }).await,
            "DeleteRange" => unary(face, body, |request| face.delete_range(request)).await,
            "Compact" => unary(face, body, |request| face.compact(request)).await,
            _ => unknown(service, method),
        },
        "etcdserverpb.Watch" if method == "Watch" => watch(face, body, needs_leader),
        "etcdserverpb.Lease" => lease(face, method, body).await,
        "etcdserverpb.Cluster" => cluster(face, method, body).await,
        "etcdserverpb.Maintenance" => maintenance(face, method, body).await,
        "etcdserverpb.Auth" => match method {
            "AuthStatus" => unary(face, body, |request| face.auth_status(request)).await,
            _ => wire::refusal(&AUTH_NOT_ENABLED),
        },
        "v3lockpb.Lock" => match method {
            "Lock" => unary(face, body, |request| face.lock(request)).await,
            "Unlock" => unary(face, body, |request| face.unlock(request)).await,
            _ => unknown(service, method),
        },
        "v3electionpb.Election" => election(face, method, body).await,
        _ => wire::refusal(&Status::text(Code::Unimplemented, format!("unknown service {service}"))),
    }
}

fn unknown(service: &str, method: &str) -> Response<Reply> {
    wire::refusal(&Status::text(Code::Unimplemented, format!("unknown method {method} for service {service}")))
}

fn watch(face: &Arc<Face>, body: Incoming, needs_leader: bool) -> Response<Reply> {
    if let Err(status) = face.needs_voter() {
        return wire::refusal(&status);
    }
    endless(face, WatchStream::new(face.clone(), Messages::new(body), needs_leader))
}

async fn lease(face: &Arc<Face>, method: &str, body: Incoming) -> Response<Reply> {
    match method {
        "LeaseGrant" => unary(face, body, |request| face.lease_grant(request)).await,
        "LeaseRevoke" => unary(face, body, |request| face.lease_revoke(request)).await,
        "LeaseTimeToLive" => unary(face, body, |request| face.lease_time_to_live(request)).await,
        "LeaseLeases" => unary(face, body, |request| face.lease_leases(request)).await,
        "LeaseKeepAlive" => match face.needs_voter() {
            Ok(()) => endless(face, face.clone().keep_alives(Messages::new(body))),
            Err(status) => wire::refusal(&status),
        },
        _ => unknown("etcdserverpb.Lease", method),
    }
}

async fn cluster(face: &Arc<Face>, method: &str, body: Incoming) -> Response<Reply> {
    match method {
        "MemberList" => unary(face, body, |request| face.member_list(request)).await,
        "MemberAdd" => unary(face, body, |request| face.member_add(request)).await,
        "MemberRemove" => unary(face, body, |request| face.member_remove(request)).await,
        "MemberUpdate" => unary(face, body, |request| face.member_update(request)).await,
        "MemberPromote" => unary(face, body, |request| face.member_promote(request)).await,
        _ => unknown("etcdserverpb.Cluster", method),
    }
}

async fn maintenance(face: &Arc<Face>, method: &str, body: Incoming) -> Response<Reply> {
    match method {
        "Alarm" => unary(face, body, |request| face.alarm(request)).await,
        "Status" => unary(face, body, |request| face.status(request)).await,
        "Defragment" => unary(face, body, |request| face.defragment(request)).await,
        "Hash" => unary(face, body, |request| face.hash(request)).await,
        "HashKV" => unary(face, body, |request| face.hash_kv(request)).await,
        "MoveLeader" => unary(face, body, |request| face.move_leader(request)).await,
        "Downgrade" => unary(face, body, |request| face.downgrade(request)).await,
        "Snapshot" => streamed(async { face.clone().snapshot(wire::message(body).await?).await }).await,
        _ => unknown("etcdserverpb.Maintenance", method),
    }
}

async fn election(face: &Arc<Face>, method: &str, body: Incoming) -> Response<Reply> {
    match method {
        "Campaign" => unary(face, body, |request: v3electionpb::CampaignRequest| face.campaign(request)).await,
        "Proclaim" => unary(face, body, |request| face.proclaim(request)).await,
        "Leader" => unary(face, body, |request| face.leader(request)).await,
        "Resign" => unary(face, body, |request| face.resign(request)).await,
        "Observe" => match wire::message::<v3electionpb::LeaderRequest>(body).await {
            Ok(request) => endless(face, face.clone().observe(&request)),
            Err(status) => wire::refusal(&status),
        },
        _ => unknown("v3electionpb.Election", method),
    }
}

/// An answer that goes on until its client has enough, or this member stops: clients then go to another.
fn endless<M: Encode + 'static>(face: &Face, messages: impl Stream<Item = Result<M, Status>> + Send + 'static) -> Response<Reply> {
    let (mut messages, mut stop) = (Box::pin(messages), Box::pin(face.stop.clone().cancelled_owned()));
    // The stop is looked at when there is nothing to tell: many thousand times less often than there is something.
    wire::stream(futures::stream::poll_fn(move |context| match messages.poll_next_unpin(context) {
        Poll::Pending => stop.poll_unpin(context).map(|()| Some(Err(STOPPED))),
        told => told,
    }))
}

/// One message in, many out, of which there is an end.
async fn streamed<M: Encode + 'static, S: Stream<Item = Result<M, Status>> + Send + 'static>(
    begun: impl Future<Output = Result<S, Status>>,
) -> Response<Reply> {
    match begun.await {
        Ok(messages) => wire::stream(messages),
        Err(status) => wire::refusal(&status),
    }
}

/// One message in, one out.
async fn unary<M: Message + Default, R: Message, F: Future<Output = Result<R, Status>>>(
    face: &Face,
    body: Incoming,
    act: impl FnOnce(M) -> F,
) -> Response<Reply> {
    let acted = async { act(wire::message(body).await?).await };
    match acted.await {
        Ok(message) => {
            let len = message.encoded_len();
            wire::answer(&message, len, face.admit(len).await)
        }
        Err(status) => wire::refusal(&status),
    }
}

impl Face {
    async fn auth_status(&self, _: pb::AuthRequest) -> Result<pb::AuthStatusResponse, Status> {
        Ok(pb::AuthStatusResponse { header: self.header_now(), enabled: false, auth_revision: 1 })
    }
}
