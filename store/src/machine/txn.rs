//! Transactions: compare, then act, at one revision. etcd's rules: every comparison, nested ones too, looks at the state
//! before the transaction; what the chosen branches ask is checked before anything is written; reads see earlier writes of
//! their own transaction.

use super::{Machine, Scan, Stamp};
use crate::command::{Compare, CompareResult, CompareTarget, KeyRange, KeyValue, MAX_OPS, Op, OpResponse, Revision, Txn, TxnResponse};
use crate::error::StoreError;
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::BTreeSet;

impl Machine {
    pub(super) fn txn(&mut self, txn: &Txn) -> Result<TxnResponse, StoreError> {
        let mut path = Vec::new();
        self.choose(txn, &mut path);
        self.admissible(txn, &mut path.iter().copied())?;
        let mut stamp = self.stamp();
        let response = self.act(txn, &mut path.iter().copied(), &mut stamp)?;
        self.commit(&stamp);
        Ok(response)
    }

    /// Evaluates the comparisons, depth first in the order in which the branches are walked later.
    fn choose(&self, txn: &Txn, path: &mut Vec<bool>) {
        let held = txn.compare.iter().all(|compare| self.holds(compare));
        path.push(held);
        for op in branch(txn, held) {
            if let Op::Txn(inner) = op {
                self.choose(inner, path);
            }
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let (mut all, mut any) = (true, false);
        self.scan(&compare.range, Revision::MAX, None, usize::MAX, |key, version| {
            any = true;
            all = all && compares(compare, &version.kv(key));
        });
        if any {
            return all;
        }
        let missing = KeyValue { key: Bytes::new(), value: Bytes::new(), create_revision: 0, mod_revision: 0, version: 0, lease: 0 };
        !matches!(compare.target, CompareTarget::Value(_)) && compares(compare, &missing)
    }

    /// What could fail must fail before the first write.
    fn admissible(&self, txn: &Txn, path: &mut impl Iterator<Item = bool>) -> Result<(), StoreError> {
        let held = path.next().expect("one choice per transaction");
        for op in branch(txn, held) {
            match op {
                Op::Put { lease, .. } if *lease != 0 && !self.leases.contains_key(lease) => return Err(StoreError::LeaseNotFound),
                Op::Update { lease: Some(lease), .. } if *lease != 0 && !self.leases.contains_key(lease) => {
                    return Err(StoreError::LeaseNotFound);
                }
                Op::Update { key, .. } if self.live(key).is_none() => return Err(StoreError::KeyNotFound),
                Op::Put { .. } | Op::Delete { .. } | Op::Update { .. } => {}
                Op::Range(request) => self.readable(request.revision)?,
                Op::Txn(inner) => self.admissible(inner, path)?,
            }
        }
        Ok(())
    }

    fn act(&mut self, txn: &Txn, path: &mut impl Iterator<Item = bool>, stamp: &mut Stamp) -> Result<TxnResponse, StoreError> {
        let succeeded = path.next().expect("one choice per transaction");
        let mut responses = Vec::with_capacity(branch(txn, succeeded).len());
        for op in branch(txn, succeeded) {
            responses.push(match op {
                Op::Put { key, value, lease, prev_kv } => {
                    OpResponse::Put { prev_kv: self.put(stamp, key, value, *lease).filter(|_| *prev_kv) }
                }
                Op::Update { key, value, lease, prev_kv } => {
                    let (held_value, held_lease) =
                        self.live(key).map_or((Bytes::new(), 0), |held| (held.value.clone().unwrap_or_default(), held.lease));
                    let prev = self.put(stamp, key, value.as_ref().unwrap_or(&held_value), lease.unwrap_or(held_lease));
                    OpResponse::Put { prev_kv: prev.filter(|_| *prev_kv) }
                }
                Op::Delete { range, prev_kv } => {
                    let gone = self.delete(stamp, range);
                    OpResponse::Delete { deleted: gone.len(), prev_kvs: if *prev_kv { gone } else { Vec::new() } }
                }
                Op::Range(request) => {
                    let mut scan = Scan::within(self, request, self.seen(stamp))?;
                    scan.page(self, usize::MAX)?;
                    OpResponse::Range(scan.finish())
                }
                Op::Txn(inner) => OpResponse::Txn(self.act(inner, path, stamp)?),
            });
        }
        Ok(TxnResponse { revision: self.seen(stamp), succeeded, responses })
    }

    /// The revision that a read in the middle of a transaction sees.
    fn seen(&self, stamp: &Stamp) -> Revision {
        if stamp.sub > 0 { stamp.revision } else { self.revision }
    }
}

fn branch(txn: &Txn, held: bool) -> &[Op] {
    if held { &txn.success } else { &txn.failure }
}

fn compares(compare: &Compare, kv: &KeyValue) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(wanted) => kv.version.cmp(wanted),
        CompareTarget::CreateRevision(wanted) => kv.create_revision.cmp(wanted),
        CompareTarget::ModRevision(wanted) => kv.mod_revision.cmp(wanted),
        CompareTarget::Lease(wanted) => kv.lease.cmp(wanted),
        CompareTarget::Value(wanted) => kv.value.cmp(wanted),
    };
    match compare.result {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
        CompareResult::NotEqual => order != Ordering::Equal,
    }
}

/// What must hold of a transaction whatever the state is; asked before it is proposed.
///
/// # Errors
/// `TooLarge` (operations), `DuplicateKey`.
pub fn check(txn: &Txn) -> Result<(), StoreError> {
    check_size(txn, MAX_OPS)?;
    intervals(&txn.success)?;
    intervals(&txn.failure)?;
    Ok(())
}

fn check_size(txn: &Txn, left: usize) -> Result<(), StoreError> {
    let size = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    let Some(left) = left.checked_sub(size) else {
        return Err(StoreError::TooLarge("too many operations in txn request".into()));
    };
    for op in txn.success.iter().chain(&txn.failure) {
        if let Op::Txn(inner) = op {
            check_size(inner, left)?;
        }
    }
    Ok(())
}

/// Keys put and ranges deleted by operations of which all may happen.
#[derive(Default)]
struct Touched<'a> {
    puts: BTreeSet<&'a Bytes>,
    deletes: Vec<&'a KeyRange>,
}

impl<'a> Touched<'a> {
    fn put(&mut self, key: &'a Bytes) -> Result<(), StoreError> {
        if self.deletes.iter().any(|range| range.contains(key)) || !self.puts.insert(key) {
            return Err(StoreError::DuplicateKey);
        }
        Ok(())
    }
}

/// No key may be put twice, or put and deleted, by operations that can happen together. The two branches of a nested
/// transaction exclude each other.
fn intervals(ops: &[Op]) -> Result<Touched<'_>, StoreError> {
    let mut touched = Touched::default();
    for op in ops {
        if let Op::Delete { range, .. } = op {
            touched.deletes.push(range);
        }
    }
    for op in ops {
        let Op::Txn(inner) = op else { continue };
        let success = intervals(&inner.success)?;
        let failure = intervals(&inner.failure)?;
        for key in &success.puts {
            touched.put(key)?;
        }
        for key in failure.puts.difference(&success.puts) {
            touched.put(key)?;
        }
        touched.deletes.extend(success.deletes);
        touched.deletes.extend(failure.deletes);
    }
    for op in ops {
        if let Op::Put { key, .. } | Op::Update { key, .. } = op {
            touched.put(key)?;
        }
    }
    Ok(touched)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(success: Vec<Op>, failure: Vec<Op>) -> Op {
        Op::Txn(Box::new(Txn { compare: vec![], success, failure }))
    }

    fn checked(success: Vec<Op>) -> Result<(), StoreError> {
        check(&Txn { success, ..Txn::default() })
    }

    #[test]
    fn a_key_is_written_once() {
        let range = |prefix: &'static str| Op::Delete { range: KeyRange::prefix(prefix), prev_kv: false };
        let refused = Err(StoreError::DuplicateKey);
        for (ops, want) in [
            (vec![Op::put("a", ""), Op::put("b", "")], Ok(())),
            (vec![Op::put("a", ""), Op::put("a", "")], refused.clone()),
            (vec![Op::delete("a"), Op::delete("a")], Ok(())),
            (vec![range("a"), Op::put("ab", "")], refused.clone()),
            (vec![range("a"), Op::put("b", "")], Ok(())),
            (vec![nested(vec![Op::put("a", "")], vec![Op::put("a", "")])], Ok(())),
            (vec![nested(vec![Op::put("a", "")], vec![]), Op::put("a", "")], refused.clone()),
            (vec![nested(vec![], vec![Op::delete("a")]), Op::put("a", "")], refused.clone()),
            (vec![nested(vec![Op::put("a", "")], vec![]), nested(vec![], vec![Op::put("a", "")])], refused.clone()),
            (vec![Op::delete("a"), nested(vec![Op::put("a", "")], vec![])], refused),
        ] {
            assert_eq!(checked(ops.clone()), want, "{ops:?}");
        }
    }

    #[test]
    fn operations_are_counted_through_the_nesting() {
        let puts = |count: usize| (0..count).map(|at| Op::put(format!("k{at}"), "")).collect::<Vec<_>>();
        assert_eq!(checked(puts(128)), Ok(()));
        assert!(matches!(checked(puts(129)), Err(StoreError::TooLarge(_))));
        assert_eq!(checked(vec![nested(puts(127), vec![])]), Ok(()));
        assert!(matches!(checked(vec![nested(puts(128), vec![])]), Err(StoreError::TooLarge(_))));
    }
}
