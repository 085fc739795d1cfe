//! KV: range, put, delete, transaction, compaction. May import: `command`, `etcd`.

use super::Face;
use super::pb::etcdserverpb as pb;
use super::pb::mvccpb;
use super::status::{EMPTY_KEY, INVALID_SORT, LEASE_PROVIDED, Status, VALUE_PROVIDED};
use super::txn::{self, responses};
use crate::command::{Filter, KeyRange, KeyValue, MAX_OPS, Op, OpResponse, RangeRequest, RangeResponse, SortOrder, SortTarget, Txn};
use bytes::Bytes;
use futures::Stream;

/// Bytes of keys and values in a piece of a range; one that is larger comes alone.
const PIECE_BYTES: usize = 1 << 20;

impl Face {
    pub async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        let serializable = request.serializable;
        let request = range_request(request)?;
        let response = if serializable {
            self.store.range_local(&request)?
        } else {
            self.needs_voter()?;
            self.store.range(request).await?
        };
        let header = self.header(response.revision);
        Ok(range_response(response, header))
    }

    /// A range in pieces, as etcd 3.7 has it: merged they are what `range` answers.
    pub async fn range_stream(
        &self,
        request: pb::RangeRequest,
    ) -> Result<impl Stream<Item = Result<pb::RangeStreamResponse, Status>> + use<>, Status> {
        Ok(futures::stream::iter(pieces(self.range(request).await?).map(Ok)))
    }

    pub async fn put(&self, request: pb::PutRequest) -> Result<pb::PutResponse, Status> {
        self.needs_voter()?;
        let done = self.one(put_op(request)?).await?;
        match done {
            (revision, OpResponse::Put { prev_kv }) => {
                Ok(pb::PutResponse { header: self.header(revision), prev_kv: prev_kv.map(key_value) })
            }
            (_, other) => Err(txn::unexpected(&other)),
        }
    }

    pub async fn delete_range(&self, request: pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Status> {
        self.needs_voter()?;
        let (revision, done) = self.one(delete_op(request)?).await?;
        let mut response = delete_response(done)?;
        response.header = self.header(revision);
        Ok(response)
    }

    pub async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        self.needs_voter()?;
        let done = self.store.txn(txn::request(request, MAX_OPS)?).await?;
        Ok(pb::TxnResponse {
            header: self.header(done.revision),
            succeeded: done.succeeded,
            responses: responses(done.responses, done.revision),
        })
    }

    pub async fn compact(&self, request: pb::CompactionRequest) -> Result<pb::CompactionResponse, Status> {
        self.needs_voter()?;
        self.store.compact(request.revision).await?;
        Ok(pb::CompactionResponse { header: self.header_now() })
    }

    /// Carries out one operation as a transaction of its own.
    async fn one(&self, op: Op) -> Result<(i64, OpResponse), Status> {
        let done = self.store.txn(Txn { success: vec![op], ..Txn::default() }).await?;
        match done.responses.into_iter().next() {
            Some(response) => Ok((done.revision, response)),
            None => Err(Status::new(super::Code::Internal, "a transaction without an answer")),
        }
    }
}

pub fn key_range(key: Bytes, range_end: Bytes) -> KeyRange {
    KeyRange { start: key, end: (!range_end.is_empty()).then_some(range_end) }
}

/// # Errors
/// What etcd refuses before it looks.
pub fn range_request(request: pb::RangeRequest) -> Result<RangeRequest, Status> {
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    let sort_order = match request.sort_order {
        0 => SortOrder::None,
        1 => SortOrder::Ascend,
        2 => SortOrder::Descend,
        _ => return Err(INVALID_SORT),
    };
    let sort_target = match request.sort_target {
        0 => SortTarget::Key,
        1 => SortTarget::Version,
        2 => SortTarget::Create,
        3 => SortTarget::Mod,
        4 => SortTarget::Value,
        _ => return Err(INVALID_SORT),
    };
    Ok(RangeRequest {
        range: key_range(request.key, request.range_end),
        limit: usize::try_from(request.limit).unwrap_or(0),
        revision: request.revision,
        keys_only: request.keys_only,
        count_only: request.count_only,
        sort_order,
        sort_target,
        filter: Filter {
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
        },
    })
}

pub fn range_response(response: RangeResponse, header: Option<pb::ResponseHeader>) -> pb::RangeResponse {
    pb::RangeResponse { header, kvs: response.kvs.into_iter().map(key_value).collect(), more: response.more, count: response.count as i64 }
}

/// Cuts an answer; what is said of the whole comes with the last piece.
fn pieces(whole: pb::RangeResponse) -> impl Iterator<Item = pb::RangeStreamResponse> {
    let pb::RangeResponse { header, kvs, more, count } = whole;
    let mut rest = kvs.into_iter().peekable();
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let (mut kvs, mut bytes) = (Vec::new(), 0);
        while bytes < PIECE_BYTES
            && let Some(kv) = rest.next()
        {
            bytes += kv.key.len() + kv.value.len();
            kvs.push(kv);
        }
        ended = rest.peek().is_none();
        let piece = if ended { pb::RangeResponse { header, kvs, more, count } } else { pb::RangeResponse { kvs, ..Default::default() } };
        Some(pb::RangeStreamResponse { range_response: Some(piece) })
    })
}

/// # Errors
/// As `range_request`.
pub fn put_op(request: pb::PutRequest) -> Result<Op, Status> {
    let pb::PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease } = request;
    if key.is_empty() {
        return Err(EMPTY_KEY);
    }
    if ignore_value && !value.is_empty() {
        return Err(VALUE_PROVIDED);
    }
    if ignore_lease && lease != 0 {
        return Err(LEASE_PROVIDED);
    }
    if ignore_value || ignore_lease {
        let (value, lease) = ((!ignore_value).then_some(value), (!ignore_lease).then_some(lease));
        return Ok(Op::Update { key, value, lease, prev_kv });
    }
    Ok(Op::Put { key, value, lease, prev_kv })
}

/// # Errors
/// As `range_request`.
pub fn delete_op(request: pb::DeleteRangeRequest) -> Result<Op, Status> {
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    Ok(Op::Delete { range: key_range(request.key, request.range_end), prev_kv: request.prev_kv })
}

/// # Errors
/// It is another operation's answer.
pub fn delete_response(done: OpResponse) -> Result<pb::DeleteRangeResponse, Status> {
    match done {
        OpResponse::Delete { deleted, prev_kvs } => {
            Ok(pb::DeleteRangeResponse { header: None, deleted: deleted as i64, prev_kvs: prev_kvs.into_iter().map(key_value).collect() })
        }
        other => Err(txn::unexpected(&other)),
    }
}

pub fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}
