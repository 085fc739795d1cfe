//! Requests of any bytes: refused, or carried out by the machine; what is refused changes nothing.

use super::kv::{delete_op, put_op, range_request};
use super::pb::etcdserverpb::{self as pb, compare, request_op};
use super::txn;
use crate::codec;
use crate::command::{Command, MAX_OPS, Txn};
use crate::machine::{self, Machine};
use crate::tests::fuzz::{fuzz, samples};
use prost::Message;

/// Inputs that meet the same machine.
const LIFE: u32 = 300;

fn machine() -> Machine {
    let mut machine = Machine::default();
    for command in samples() {
        // Some are refused as they come.
        drop(machine.apply(&command));
    }
    for key in ["a", "ab", "b", "key"] {
        machine.apply(&Command::Txn(crate::tests::put(key, "held"))).unwrap();
    }
    machine
}

/// Asks a target whose inputs are messages that come to commands.
fn carried<M: Message + Default>(target: &str, seeds: &[M], command: impl Fn(M) -> Option<Command>) {
    let seeds: Vec<_> = seeds.iter().map(Message::encode_to_vec).collect();
    let (mut held, mut age) = (machine(), 0);
    fuzz(target, &seeds, |bytes| {
        age += 1;
        if age % LIFE == 0 {
            held = machine();
        }
        let Some(command) = M::decode(bytes).ok().and_then(&command) else { return false };
        assert_eq!(codec::decode::<Command>(&codec::encode(&command).unwrap()).unwrap(), command, "the log changes it");
        if let Command::Txn(txn) = &command
            && machine::check(txn).is_err()
        {
            return false;
        }
        let before = (held.revision(), held.compacted(), held.bytes(), held.leases().count());
        match held.apply(&command) {
            Ok(_) => assert!(held.revision() - before.0 <= 1),
            Err(_) => assert_eq!((held.revision(), held.compacted(), held.bytes(), held.leases().count()), before, "{command:?}"),
        }
        while held.collect(64) {}
        true
    });
}

fn alone(op: crate::command::Op) -> Command {
    Command::Txn(Txn { success: vec![op], ..Txn::default() })
}

fn range() -> pb::RangeRequest {
    pb::RangeRequest { key: "a".into(), range_end: "c".into(), limit: 2, sort_order: 2, sort_target: 3, ..Default::default() }
}

fn put() -> pb::PutRequest {
    pb::PutRequest { key: "a".into(), value: "new".into(), lease: 7, prev_kv: true, ..Default::default() }
}

fn delete() -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: "a".into(), range_end: vec![0].into(), prev_kv: true }
}

#[test]
fn a_range_of_any_bytes() {
    let held = machine();
    let at = pb::RangeRequest { revision: 4, keys_only: true, min_mod_revision: 3, max_create_revision: 9, ..range() };
    let seeds = [range(), at, pb::RangeRequest { count_only: true, ..range() }].map(|request| request.encode_to_vec());
    fuzz("range", &seeds, |bytes| {
        let Some(request) = pb::RangeRequest::decode(bytes).ok().and_then(|request| range_request(request).ok()) else { return false };
        let Ok(response) = held.range(&request) else { return false };
        assert!(response.kvs.len() <= response.count && (request.limit == 0 || response.kvs.len() <= request.limit), "{request:?}");
        assert!(response.kvs.iter().all(|kv| request.range.contains(&kv.key)), "{request:?}");
        true
    });
}

#[test]
fn a_put_of_any_bytes() {
    let keep = pb::PutRequest { value: Default::default(), ignore_value: true, ..put() };
    carried("put", &[put(), keep], |request| put_op(request).ok().map(alone));
}

#[test]
fn a_delete_of_any_bytes() {
    carried("delete", &[delete()], |request| delete_op(request).ok().map(alone));
}

#[test]
fn a_transaction_of_any_bytes() {
    let op = |request| pb::RequestOp { request: Some(request) };
    let compare = |target_union| pb::Compare { key: "a".into(), target: 2, target_union: Some(target_union), ..Default::default() };
    let inner = pb::TxnRequest { success: vec![op(request_op::Request::RequestPut(put()))], ..Default::default() };
    let whole = pb::TxnRequest {
        compare: vec![compare(compare::TargetUnion::ModRevision(4)), compare(compare::TargetUnion::Value("held".into()))],
        success: vec![op(request_op::Request::RequestTxn(inner.clone())), op(request_op::Request::RequestRange(range()))],
        failure: vec![op(request_op::Request::RequestDeleteRange(delete()))],
    };
    carried("transaction", &[inner, whole], |request| txn::request(request, MAX_OPS).ok().map(Command::Txn));
}

#[test]
fn a_lease_of_any_bytes() {
    let seeds = [pb::LeaseGrantRequest { id: 9, ttl: 60 }, pb::LeaseGrantRequest { id: -1, ttl: i64::MAX }];
    carried("lease", &seeds, |request| Some(Command::LeaseGrant { id: request.id, ttl_s: request.ttl }));
}

#[test]
fn a_compaction_of_any_bytes() {
    let seeds = [3, 6, -1].map(|revision| pb::CompactionRequest { revision, physical: true });
    carried("compaction", &seeds, |request| Some(Command::Compact { revision: request.revision }));
}
