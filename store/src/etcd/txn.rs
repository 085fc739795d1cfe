//! Transactions, from the wire and back. May import: `command`, `etcd`.

use super::kv::{delete_op, key_range, key_value, put_op, range_request, range_response};
use super::pb::etcdserverpb::{self as pb, compare::CompareTarget as Target, compare::TargetUnion, request_op, response_op};
use super::status::{Code, EMPTY_KEY, KEY_NOT_FOUND, Status, TOO_MANY_OPS};
use crate::command::{Compare, CompareResult, CompareTarget, Op, OpResponse, Revision, Txn};

/// # Errors
/// What etcd refuses before it looks, in its order.
pub fn request(txn: pb::TxnRequest, left: usize) -> Result<Txn, Status> {
    let size = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    let left = left.checked_sub(size).ok_or(TOO_MANY_OPS)?;
    if txn.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(EMPTY_KEY);
    }
    let branch = |ops: Vec<pb::RequestOp>| ops.into_iter().map(|op| operation(op, left)).collect::<Result<Vec<_>, _>>();
    Ok(Txn {
        success: branch(txn.success)?,
        failure: branch(txn.failure)?,
        compare: txn.compare.into_iter().map(comparison).collect::<Result<_, _>>()?,
    })
}

fn operation(op: pb::RequestOp, left: usize) -> Result<Op, Status> {
    match op.request {
        Some(request_op::Request::RequestRange(range)) => range_request(range).map(Op::Range),
        Some(request_op::Request::RequestPut(put)) => put_op(put),
        Some(request_op::Request::RequestDeleteRange(delete)) => delete_op(delete),
        Some(request_op::Request::RequestTxn(inner)) => Ok(Op::Txn(Box::new(request(inner, left)?))),
        None => Err(KEY_NOT_FOUND),
    }
}

/// What the comparison is with is 0, or empty, unless it is of the kind that the target names.
fn comparison(compare: pb::Compare) -> Result<Compare, Status> {
    let unknown = Status::new(Code::InvalidArgument, "a comparison of unknown kind");
    let result = match compare.result {
        0 => CompareResult::Equal,
        1 => CompareResult::Greater,
        2 => CompareResult::Less,
        3 => CompareResult::NotEqual,
        _ => return Err(unknown),
    };
    let target = match (Target::try_from(compare.target), compare.target_union) {
        (Ok(Target::Version), Some(TargetUnion::Version(number))) => CompareTarget::Version(number),
        (Ok(Target::Version), _) => CompareTarget::Version(0),
        (Ok(Target::Create), Some(TargetUnion::CreateRevision(number))) => CompareTarget::CreateRevision(number),
        (Ok(Target::Create), _) => CompareTarget::CreateRevision(0),
        (Ok(Target::Mod), Some(TargetUnion::ModRevision(number))) => CompareTarget::ModRevision(number),
        (Ok(Target::Mod), _) => CompareTarget::ModRevision(0),
        (Ok(Target::Lease), Some(TargetUnion::Lease(number))) => CompareTarget::Lease(number),
        (Ok(Target::Lease), _) => CompareTarget::Lease(0),
        (Ok(Target::Value), Some(TargetUnion::Value(value))) => CompareTarget::Value(value),
        (Ok(Target::Value), _) => CompareTarget::Value(bytes::Bytes::new()),
        (Err(_), _) => return Err(unknown),
    };
    Ok(Compare { range: key_range(compare.key, compare.range_end), target, result })
}

/// Answers of a branch. Their headers carry the revision alone, as etcd's do.
pub fn responses(done: Vec<OpResponse>, revision: Revision) -> Vec<pb::ResponseOp> {
    done.into_iter().map(|done| pb::ResponseOp { response: Some(response(done, revision)) }).collect()
}

fn response(done: OpResponse, revision: Revision) -> response_op::Response {
    let at = |revision| Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() });
    match done {
        OpResponse::Put { prev_kv } => {
            response_op::Response::ResponsePut(pb::PutResponse { header: at(revision), prev_kv: prev_kv.map(key_value) })
        }
        OpResponse::Delete { deleted, prev_kvs } => response_op::Response::ResponseDeleteRange(pb::DeleteRangeResponse {
            header: at(revision),
            deleted: deleted as i64,
            prev_kvs: prev_kvs.into_iter().map(key_value).collect(),
        }),
        OpResponse::Range(range) => {
            let header = at(range.revision);
            response_op::Response::ResponseRange(range_response(range, header))
        }
        OpResponse::Txn(inner) => response_op::Response::ResponseTxn(pb::TxnResponse {
            header: at(inner.revision),
            succeeded: inner.succeeded,
            responses: responses(inner.responses, inner.revision),
        }),
    }
}

pub fn unexpected(done: &OpResponse) -> Status {
    Status::text(Code::Internal, format!("an answer to another question: {done:?}"))
}
