//! Ranges in pieces (etcd 3.7's RangeStream): merged they are the whole, and what is refused is refused alike. etcd takes
//! fewer of them than we do; `differential` compares those that it takes.

use super::{Served, get, put};
use orchd_store::etcd::client::Connection;
use orchd_store::etcd::pb::etcdserverpb as pb;
use orchd_store::etcd::pb::etcdserverpb::kv_client::KvClient;
use tonic::Status;

const KEYS: usize = 40;
const VALUE_BYTES: usize = 100 << 10;

fn all() -> pb::RangeRequest {
    pb::RangeRequest { range_end: "piece0".into(), ..get("piece/") }
}

/// `tenth`: the revision that made the tenth key.
fn cases(tenth: i64) -> Vec<(&'static str, pb::RangeRequest)> {
    let sorted = |order: pb::range_request::SortOrder, target: pb::range_request::SortTarget| pb::RangeRequest {
        sort_order: order as i32,
        sort_target: target as i32,
        ..all()
    };
    use pb::range_request::{SortOrder, SortTarget};
    vec![
        ("all", all()),
        ("one", get("piece/07")),
        ("none", get("nothing")),
        ("some", pb::RangeRequest { limit: 30, ..all() }),
        ("as many as there are", pb::RangeRequest { limit: KEYS as i64, ..all() }),
        ("keys", pb::RangeRequest { keys_only: true, ..all() }),
        ("their number", pb::RangeRequest { count_only: true, ..all() }),
        ("before", pb::RangeRequest { revision: tenth, ..all() }),
        ("from this replica", pb::RangeRequest { serializable: true, ..all() }),
        ("the newest", pb::RangeRequest { min_mod_revision: tenth, ..all() }),
        ("by key", sorted(SortOrder::Ascend, SortTarget::Key)),
        ("backwards", sorted(SortOrder::Descend, SortTarget::Key)),
        ("by value", pb::RangeRequest { limit: 20, ..sorted(SortOrder::Descend, SortTarget::Value) }),
        ("nothing named", get("")),
        ("the future", pb::RangeRequest { revision: 4000, ..all() }),
    ]
}

/// What each comes to. In pieces it has to be what it is as a whole, if it can be had in pieces.
pub async fn ask(connection: Connection) -> Vec<String> {
    let mut kv = super::kv(connection);
    let mut revisions = Vec::new();
    for at in 0..KEYS {
        let value = vec![b'a' + (at * 7 % 20) as u8; VALUE_BYTES];
        let answer = kv.put(put(&format!("piece/{at:02}"), value)).await.unwrap();
        revisions.push(answer.into_inner().header.unwrap().revision);
    }
    let mut seen = Vec::new();
    for (name, request) in cases(revisions[9]) {
        let whole = kv.range(request.clone()).await.map(tonic::Response::into_inner);
        seen.push(match (merged(&mut kv, request).await, whole) {
            (Err(status), _) if status.code() == tonic::Code::Unimplemented => format!("{name}: not in pieces"),
            (Err(status), Err(whole)) => {
                assert_eq!((status.code(), status.message()), (whole.code(), whole.message()), "{name}");
                format!("{name}: {}", status.message())
            }
            (Ok((pieces, merged)), Ok(whole)) => {
                assert_eq!(merged, whole, "{name}");
                let pieces = if pieces > 1 { "pieces" } else { "one piece" };
                format!("{name}: {} of {} in {pieces}{}", merged.kvs.len(), merged.count, if merged.more { ", and more" } else { "" })
            }
            (pieces, whole) => panic!("{name}: in pieces {pieces:?}, as a whole {whole:?}"),
        });
    }
    seen
}

/// How many pieces it comes in, and what they make.
async fn merged(kv: &mut KvClient<Connection>, request: pb::RangeRequest) -> Result<(usize, pb::RangeResponse), Status> {
    let mut stream = kv.range_stream(request).await?.into_inner();
    let (mut merged, mut pieces) = (pb::RangeResponse::default(), 0);
    while let Some(piece) = stream.message().await? {
        assert!(merged.header.is_none() && merged.count == 0 && !merged.more, "only the last piece says of the whole");
        let piece = piece.range_response.unwrap();
        merged.kvs.extend(piece.kvs);
        merged = pb::RangeResponse { kvs: merged.kvs, ..piece };
        pieces += 1;
    }
    Ok((pieces, merged))
}

/// What comes of them here. etcd takes neither filters by revision nor any order but that of keys.
pub const WANTED: [&str; 15] = [
    "all: 40 of 40 in pieces",
    "one: 1 of 1 in one piece",
    "none: 0 of 0 in one piece",
    "some: 30 of 40 in pieces, and more",
    "as many as there are: 40 of 40 in pieces",
    "keys: 40 of 40 in one piece",
    "their number: 0 of 40 in one piece",
    "before: 10 of 10 in one piece",
    "from this replica: 40 of 40 in pieces",
    "the newest: 31 of 40 in pieces",
    "by key: 40 of 40 in pieces",
    "backwards: 40 of 40 in pieces",
    "by value: 20 of 40 in pieces, and more",
    "nothing named: etcdserver: key is not provided",
    "the future: etcdserver: mvcc: required revision is a future revision",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_make_the_whole() {
    let served = Served::start().await;
    assert_eq!(ask(served.connect().await).await, WANTED);
    served.finish().await;
}
