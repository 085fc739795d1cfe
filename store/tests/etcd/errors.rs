//! What is refused, in etcd's codes and words (those of etcd 3.7.3, which `differential` asks again where it is installed).

use super::{Served, delete, delete_op, get, get_op, put, put_op};
use orchd_store::etcd::client::Connection;
use orchd_store::etcd::pb::etcdserverpb as pb;
use tonic::{Code, Status};

/// A request and what comes of it: None if it is carried out.
pub type Refusal = (&'static str, Option<(Code, String)>);

fn outcome<T>(answer: Result<tonic::Response<T>, Status>) -> Option<(Code, String)> {
    answer.err().map(|status| (status.code(), status.message().to_owned()))
}

fn txn(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success, ..Default::default() }
}

fn nested(inner: pb::TxnRequest) -> pb::RequestOp {
    super::op(pb::request_op::Request::RequestTxn(inner))
}

/// Asks everything that has to be refused, and some of what has not, of a store that has just been made.
pub async fn ask(connection: Connection) -> Vec<Refusal> {
    let mut kv = super::kv(connection.clone());
    let mut seen = Vec::new();
    for at in 0..6 {
        kv.put(put("k", at.to_string())).await.unwrap();
    }
    kv.compact(pb::CompactionRequest { revision: 4, physical: false }).await.unwrap();
    seen.extend(ranges(&mut kv).await);
    seen.extend(puts(&mut kv).await);
    seen.extend(txns(&mut kv).await);
    seen.push(("compact again", outcome(kv.compact(pb::CompactionRequest { revision: 4, physical: false }).await)));
    seen.push(("compact the future", outcome(kv.compact(pb::CompactionRequest { revision: 4000, physical: false }).await)));
    seen.push(("delete nothing named", outcome(kv.delete_range(delete("")).await)));
    seen.extend(leases(connection.clone()).await);
    seen.extend(cluster(connection).await);
    seen
}

async fn ranges(kv: &mut pb::kv_client::KvClient<Connection>) -> Vec<Refusal> {
    let mut seen = Vec::new();
    seen.push(("get nothing named", outcome(kv.range(get("")).await)));
    seen.push(("get compacted", outcome(kv.range(pb::RangeRequest { revision: 2, ..get("k") }).await)));
    seen.push(("get at the compaction", outcome(kv.range(pb::RangeRequest { revision: 4, ..get("k") }).await)));
    seen.push(("get the future", outcome(kv.range(pb::RangeRequest { revision: 1000, ..get("k") }).await)));
    seen.push(("get at a negative revision", outcome(kv.range(pb::RangeRequest { revision: -1, ..get("k") }).await)));
    seen.push(("sort in no order", outcome(kv.range(pb::RangeRequest { sort_order: 9, ..get("k") }).await)));
    seen.push(("sort by nothing", outcome(kv.range(pb::RangeRequest { sort_target: 9, ..get("k") }).await)));
    seen
}

async fn puts(kv: &mut pb::kv_client::KvClient<Connection>) -> Vec<Refusal> {
    let mut seen = Vec::new();
    seen.push(("put nothing named", outcome(kv.put(put("", "v")).await)));
    seen.push(("put with an unknown lease", outcome(kv.put(pb::PutRequest { lease: 4711, ..put("k", "v") }).await)));
    seen.push(("put, value ignored and given", outcome(kv.put(pb::PutRequest { ignore_value: true, ..put("k", "v") }).await)));
    let both = pb::PutRequest { ignore_lease: true, lease: 1, ..put("k", "v") };
    seen.push(("put, lease ignored and given", outcome(kv.put(both).await)));
    seen.push(("put, value ignored, no key", outcome(kv.put(pb::PutRequest { ignore_value: true, ..put("none", "") }).await)));
    seen.push(("put, lease ignored, no key", outcome(kv.put(pb::PutRequest { ignore_lease: true, ..put("none", "v") }).await)));
    seen.push(("put, value ignored", outcome(kv.put(pb::PutRequest { ignore_value: true, ..put("k", "") }).await)));
    seen.push(("put too much", outcome(kv.put(put("k", vec![0; 1600 << 10])).await)));
    let huge = outcome(kv.put(put("k", vec![0; 3 << 20])).await);
    // How many bytes surround the value differs by a few.
    seen.push(("put far too much", huge.map(|(code, text)| (code, text.split('(').next().unwrap_or_default().to_owned()))));
    seen
}

async fn txns(kv: &mut pb::kv_client::KvClient<Connection>) -> Vec<Refusal> {
    let many = |count: usize| (0..count).map(|at| put_op(put(&format!("t{at}"), ""))).collect::<Vec<_>>();
    let range_end = |request: pb::DeleteRangeRequest| pb::DeleteRangeRequest { range_end: "z".into(), ..request };
    let compare = |key: &'static str| pb::Compare { key: key.into(), ..Default::default() };
    let cases: Vec<(&'static str, pb::TxnRequest)> = vec![
        ("128 operations", txn(many(128))),
        ("129 operations", txn(many(129))),
        ("127 operations in one", txn(vec![nested(txn(many(127)))])),
        ("128 operations in one", txn(vec![nested(txn(many(128)))])),
        ("129 comparisons", pb::TxnRequest { compare: vec![compare("k"); 129], ..Default::default() }),
        ("compare nothing named", pb::TxnRequest { compare: vec![compare("")], ..Default::default() }),
        ("put twice", txn(vec![put_op(put("a", "")), put_op(put("a", ""))])),
        ("put and delete", txn(vec![put_op(put("a", "")), delete_op(delete("a"))])),
        ("put and delete a range", txn(vec![delete_op(range_end(delete("a"))), put_op(put("b", ""))])),
        ("delete twice", txn(vec![delete_op(delete("a")), delete_op(delete("a"))])),
        ("put in both branches", txn(vec![nested(pb::TxnRequest { success: many(1), failure: many(1), ..Default::default() })])),
        ("put inside and outside", txn(vec![nested(txn(many(1))), many(1).remove(0)])),
        ("an operation that is none", txn(vec![pb::RequestOp { request: None }])),
        ("put nothing named in it", txn(vec![put_op(put("", ""))])),
        ("unknown lease in it", txn(vec![put_op(put("fine", "")), put_op(pb::PutRequest { lease: 4711, ..put("k", "") })])),
        ("value ignored, no key in it", txn(vec![put_op(pb::PutRequest { ignore_value: true, ..put("none", "") })])),
        ("compacted in it", txn(vec![put_op(put("fine", "")), get_op(pb::RangeRequest { revision: 2, ..get("k") })])),
        ("the future in it", txn(vec![put_op(put("fine", "")), get_op(pb::RangeRequest { revision: 1000, ..get("k") })])),
        ("nothing at all", txn(vec![])),
    ];
    let mut seen = Vec::new();
    for (name, request) in cases {
        seen.push((name, outcome(kv.txn(request).await)));
    }
    seen.push((
        "of what was refused nothing is there",
        (kv.range(get("fine")).await.unwrap().into_inner().count > 0).then(|| (Code::Ok, String::new())),
    ));
    seen
}

async fn leases(connection: Connection) -> Vec<Refusal> {
    let mut lease = pb::lease_client::LeaseClient::with_origin(connection, Connection::origin());
    let mut seen = Vec::new();
    seen.push(("grant", outcome(lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 77 }).await)));
    seen.push(("grant again", outcome(lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 77 }).await)));
    seen.push(("grant for ever", outcome(lease.lease_grant(pb::LeaseGrantRequest { ttl: 9_000_000_001, id: 78 }).await)));
    seen.push(("revoke", outcome(lease.lease_revoke(pb::LeaseRevokeRequest { id: 77 }).await)));
    seen.push(("revoke again", outcome(lease.lease_revoke(pb::LeaseRevokeRequest { id: 77 }).await)));
    let left = lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 77, keys: true }).await.unwrap().into_inner();
    seen.push(("time to live of none", (left.ttl != -1).then(|| (Code::Ok, format!("{left:?}")))));
    seen
}

async fn cluster(connection: Connection) -> Vec<Refusal> {
    let (mut cluster, mut maintenance) = (connection.cluster(), connection.maintenance());
    let mut seen = Vec::new();
    let add = pb::MemberAddRequest { peer_ur_ls: vec!["10.0.0.1:2380".into()], ..Default::default() };
    seen.push(("add a member without a scheme", outcome(cluster.member_add(add).await)));
    seen.push(("remove an unknown member", outcome(cluster.member_remove(pb::MemberRemoveRequest { id: 5 }).await)));
    seen.push(("promote an unknown member", outcome(cluster.member_promote(pb::MemberPromoteRequest { id: 5 }).await)));
    let down = |action, version: &str| pb::DowngradeRequest { action, version: version.into() };
    seen.push(("downgrade to nonsense", outcome(maintenance.downgrade(down(0, "x.y")).await)));
    seen.push(("cancel no downgrade", outcome(maintenance.downgrade(down(2, "")).await)));
    seen.push(("hash compacted", outcome(maintenance.hash_kv(pb::HashKvRequest { revision: 2 }).await)));
    seen.push(("hash the future", outcome(maintenance.hash_kv(pb::HashKvRequest { revision: 1000 }).await)));
    seen
}

/// What etcd 3.7.3 answers.
pub fn wanted() -> Vec<Refusal> {
    use Code::{FailedPrecondition, InvalidArgument, NotFound, OutOfRange, ResourceExhausted};
    let refused = |name, code, text: &str| (name, Some((code, text.to_owned())));
    let done = |name| (name, None);
    let (empty, absent) = ("etcdserver: key is not provided", "etcdserver: key not found");
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let future = "etcdserver: mvcc: required revision is a future revision";
    let lease = "etcdserver: requested lease not found";
    let many = "etcdserver: too many operations in txn request";
    let twice = "etcdserver: duplicate key given in txn request";
    vec![
        refused("get nothing named", InvalidArgument, empty),
        refused("get compacted", OutOfRange, compacted),
        done("get at the compaction"),
        refused("get the future", OutOfRange, future),
        done("get at a negative revision"),
        refused("sort in no order", InvalidArgument, "etcdserver: invalid sort option"),
        refused("sort by nothing", InvalidArgument, "etcdserver: invalid sort option"),
        refused("put nothing named", InvalidArgument, empty),
        refused("put with an unknown lease", NotFound, lease),
        refused("put, value ignored and given", InvalidArgument, "etcdserver: value is provided"),
        refused("put, lease ignored and given", InvalidArgument, "etcdserver: lease is provided"),
        refused("put, value ignored, no key", InvalidArgument, absent),
        refused("put, lease ignored, no key", InvalidArgument, absent),
        done("put, value ignored"),
        refused("put too much", InvalidArgument, "etcdserver: request is too large"),
        refused("put far too much", ResourceExhausted, "grpc: received message larger than max "),
        done("128 operations"),
        refused("129 operations", InvalidArgument, many),
        done("127 operations in one"),
        refused("128 operations in one", InvalidArgument, many),
        refused("129 comparisons", InvalidArgument, many),
        refused("compare nothing named", InvalidArgument, empty),
        refused("put twice", InvalidArgument, twice),
        refused("put and delete", InvalidArgument, twice),
        refused("put and delete a range", InvalidArgument, twice),
        done("delete twice"),
        done("put in both branches"),
        refused("put inside and outside", InvalidArgument, twice),
        refused("an operation that is none", InvalidArgument, absent),
        refused("put nothing named in it", InvalidArgument, empty),
        refused("unknown lease in it", NotFound, lease),
        refused("value ignored, no key in it", InvalidArgument, absent),
        refused("compacted in it", OutOfRange, compacted),
        refused("the future in it", OutOfRange, future),
        done("nothing at all"),
        done("of what was refused nothing is there"),
        refused("compact again", OutOfRange, compacted),
        refused("compact the future", OutOfRange, future),
        refused("delete nothing named", InvalidArgument, empty),
        done("grant"),
        refused("grant again", FailedPrecondition, "etcdserver: lease already exists"),
        refused("grant for ever", OutOfRange, "etcdserver: too large lease TTL"),
        done("revoke"),
        refused("revoke again", NotFound, lease),
        done("time to live of none"),
        refused("add a member without a scheme", InvalidArgument, "etcdserver: given member URLs are invalid"),
        refused("remove an unknown member", NotFound, "etcdserver: member not found"),
        refused("promote an unknown member", NotFound, "etcdserver: member not found"),
        refused("downgrade to nonsense", InvalidArgument, "etcdserver: wrong downgrade target version format"),
        done("cancel no downgrade"),
        refused("hash compacted", OutOfRange, compacted),
        refused("hash the future", OutOfRange, future),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_refused_in_etcds_words() {
    let served = Served::start().await;
    let seen = ask(served.connect().await).await;
    for (seen, wanted) in seen.iter().zip(&wanted()) {
        assert_eq!(seen, wanted);
    }
    assert_eq!(seen.len(), wanted().len());
    served.finish().await;
}
