//! The machine against a model so simple that it can be seen to be right: whole copies of the store at every revision.

use super::image::Reading;
use super::{Delta, Machine, Row};
use crate::command::{
    Command, Compare, CompareResult, CompareTarget, Filter, KeyRange, KeyValue, Op, OpResponse, Output, RangeRequest, RangeResponse,
    Revision, SortOrder, SortTarget, Txn, TxnResponse,
};
use crate::error::StoreError;
use crate::tests::cases;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Keys = BTreeMap<Bytes, KeyValue>;

/// One write: the key, and its new state unless it was deleted.
type Event = (Bytes, Option<KeyValue>);

#[derive(Clone)]
struct Model {
    /// The store at each revision, and what happened at it; the first is revision 1.
    states: Vec<(Keys, Vec<Event>)>,
    compacted: Revision,
    leases: BTreeMap<i64, i64>,
}

impl Model {
    fn new() -> Self {
        Self { states: vec![(Keys::new(), vec![])], compacted: 0, leases: BTreeMap::new() }
    }

    fn revision(&self) -> Revision {
        self.states.len() as Revision
    }

    fn now(&self) -> &Keys {
        &self.states[self.states.len() - 1].0
    }

    fn apply(&mut self, command: &Command) -> Result<Output, StoreError> {
        match command {
            Command::Txn(txn) => self.txn(txn).map(Output::Txn),
            Command::LeaseGrant { id, ttl_s } => {
                if self.leases.contains_key(id) {
                    return Err(StoreError::LeaseExists);
                }
                self.leases.insert(*id, *ttl_s);
                Ok(Output::LeaseGranted { id: *id, ttl_s: *ttl_s })
            }
            Command::LeaseRevoke { id } => {
                self.leases.remove(id).ok_or(StoreError::LeaseNotFound)?;
                let mut keys = self.now().clone();
                let gone: Vec<Bytes> = keys.values().filter(|kv| kv.lease == *id).map(|kv| kv.key.clone()).collect();
                for key in &gone {
                    keys.remove(key);
                }
                if !gone.is_empty() {
                    self.states.push((keys, gone.into_iter().map(|key| (key, None)).collect()));
                }
                Ok(Output::LeaseRevoked)
            }
            Command::Compact { revision } => {
                if *revision <= self.compacted {
                    return Err(StoreError::Compacted { compacted: self.compacted });
                }
                if *revision > self.revision() {
                    return Err(StoreError::Future { current: self.revision() });
                }
                self.compacted = *revision;
                Ok(Output::Compacted)
            }
        }
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnResponse, StoreError> {
        let mut keys = self.now().clone();
        let mut events = Vec::new();
        let before = self.clone();
        before.admissible(txn)?;
        let response = before.act(txn, &mut keys, &mut events)?;
        if !events.is_empty() {
            self.states.push((keys, events));
        }
        Ok(response)
    }

    fn holds(&self, txn: &Txn) -> bool {
        txn.compare.iter().all(|compare| {
            let found: Vec<_> = self.now().values().filter(|kv| compare.range.contains(&kv.key)).cloned().collect();
            let zero = KeyValue { key: Bytes::new(), value: Bytes::new(), create_revision: 0, mod_revision: 0, version: 0, lease: 0 };
            match (&compare.target, found.is_empty()) {
                (CompareTarget::Value(_), true) => false,
                (_, true) => holds(compare, &zero),
                (_, false) => found.iter().all(|kv| holds(compare, kv)),
            }
        })
    }

    fn admissible(&self, txn: &Txn) -> Result<(), StoreError> {
        for op in if self.holds(txn) { &txn.success } else { &txn.failure } {
            match op {
                Op::Put { lease, .. } if *lease != 0 && !self.leases.contains_key(lease) => return Err(StoreError::LeaseNotFound),
                Op::Range(request) => self.readable(request)?,
                Op::Txn(inner) => self.admissible(inner)?,
                Op::Update { lease: Some(lease), .. } if *lease != 0 && !self.leases.contains_key(lease) => {
                    return Err(StoreError::LeaseNotFound);
                }
                Op::Update { key, .. } if !self.now().contains_key(key) => return Err(StoreError::KeyNotFound),
                Op::Put { .. } | Op::Delete { .. } | Op::Update { .. } => {}
            }
        }
        Ok(())
    }

    fn act(&self, txn: &Txn, keys: &mut Keys, events: &mut Vec<Event>) -> Result<TxnResponse, StoreError> {
        let next = self.revision() + 1;
        let succeeded = self.holds(txn);
        let mut responses = Vec::new();
        for op in if succeeded { &txn.success } else { &txn.failure } {
            let filled = match op {
                Op::Update { key, value, lease, prev_kv } => {
                    let held = keys.get(key).cloned().expect("admitted");
                    let (value, lease) = (value.clone().unwrap_or(held.value), lease.unwrap_or(held.lease));
                    Some(Op::Put { key: key.clone(), value, lease, prev_kv: *prev_kv })
                }
                _ => None,
            };
            responses.push(match filled.as_ref().unwrap_or(op) {
                Op::Update { .. } => unreachable!("filled in above"),
                Op::Put { key, value, lease, prev_kv } => {
                    let prev = keys.get(key).cloned();
                    let kv = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision: prev.as_ref().map_or(next, |prev| prev.create_revision),
                        mod_revision: next,
                        version: prev.as_ref().map_or(1, |prev| prev.version + 1),
                        lease: *lease,
                    };
                    keys.insert(key.clone(), kv.clone());
                    events.push((key.clone(), Some(kv)));
                    OpResponse::Put { prev_kv: prev.filter(|_| *prev_kv) }
                }
                Op::Delete { range, prev_kv } => {
                    let gone: Vec<KeyValue> = keys.values().filter(|kv| range.contains(&kv.key)).cloned().collect();
                    for kv in &gone {
                        keys.remove(&kv.key);
                        events.push((kv.key.clone(), None));
                    }
                    OpResponse::Delete { deleted: gone.len(), prev_kvs: if *prev_kv { gone } else { vec![] } }
                }
                Op::Range(request) => {
                    let now = if events.is_empty() { self.revision() } else { next };
                    let seen = if request.revision > 0 { &self.states[request.revision as usize - 1].0 } else { &*keys };
                    OpResponse::Range(range(seen, request, now))
                }
                Op::Txn(inner) => OpResponse::Txn(self.act(inner, keys, events)?),
            });
        }
        let revision = if events.is_empty() { self.revision() } else { next };
        Ok(TxnResponse { revision, succeeded, responses })
    }

    fn readable(&self, request: &RangeRequest) -> Result<(), StoreError> {
        if request.revision > self.revision() {
            return Err(StoreError::Future { current: self.revision() });
        }
        if request.revision > 0 && request.revision < self.compacted {
            return Err(StoreError::Compacted { compacted: self.compacted });
        }
        Ok(())
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        self.readable(request)?;
        let at = if request.revision > 0 { request.revision } else { self.revision() };
        Ok(range(&self.states[at as usize - 1].0, request, self.revision()))
    }
}

fn holds(compare: &Compare, kv: &KeyValue) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(number) => kv.version.cmp(number),
        CompareTarget::CreateRevision(number) => kv.create_revision.cmp(number),
        CompareTarget::ModRevision(number) => kv.mod_revision.cmp(number),
        CompareTarget::Lease(number) => kv.lease.cmp(number),
        CompareTarget::Value(value) => kv.value.cmp(value),
    };
    match compare.result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
    }
}

fn range(keys: &Keys, request: &RangeRequest, now: Revision) -> RangeResponse {
    let mut kvs: Vec<KeyValue> = keys.values().filter(|kv| request.range.contains(&kv.key)).cloned().collect();
    let count = kvs.len();
    let f = &request.filter;
    kvs.retain(|kv| kv.mod_revision >= f.min_mod && kv.create_revision >= f.min_create);
    kvs.retain(|kv| f.max_mod == 0 || kv.mod_revision <= f.max_mod);
    kvs.retain(|kv| f.max_create == 0 || kv.create_revision <= f.max_create);
    let passed = kvs.len();
    kvs.sort_by(|a, b| {
        let order = match request.sort_target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        if request.sort_order == SortOrder::Descend { order.reverse() } else { order }
    });
    if request.limit > 0 {
        kvs.truncate(request.limit);
    }
    if request.count_only {
        return RangeResponse { revision: now, kvs: vec![], more: false, count };
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    let more = kvs.len() < passed;
    RangeResponse { revision: now, kvs, more, count }
}

fn key() -> impl Strategy<Value = Bytes> {
    "[ab]{1,2}".prop_map(Bytes::from)
}

fn keys() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        3 => key().prop_map(KeyRange::key),
        1 => key().prop_map(KeyRange::prefix),
        1 => (key(), key()).prop_map(|(start, end)| KeyRange { start, end: Some(end) }),
        1 => Just(KeyRange::prefix("")),
        1 => key().prop_map(|start| KeyRange { start, end: Some(Bytes::from_static(b"\0")) }),
    ]
}

fn request() -> impl Strategy<Value = RangeRequest> {
    let order = prop_oneof![Just(SortOrder::None), Just(SortOrder::Ascend), Just(SortOrder::Descend)];
    let target = prop_oneof![
        3 => Just(SortTarget::Key),
        1 => Just(SortTarget::Version),
        1 => Just(SortTarget::Create),
        1 => Just(SortTarget::Mod),
        1 => Just(SortTarget::Value),
    ];
    (keys(), 0..4_usize, prop_oneof![2 => Just(0), 1 => 0..12_i64], prop::bool::weighted(0.2), prop::bool::weighted(0.2), order, target)
        .prop_map(|(range, limit, revision, keys_only, count_only, sort_order, sort_target)| RangeRequest {
            range,
            limit,
            revision,
            keys_only,
            count_only,
            sort_order,
            sort_target,
            filter: Filter::default(),
        })
        .prop_flat_map(|request| (Just(request), prop::option::weighted(0.2, filter())))
        .prop_map(|(request, filter)| RangeRequest { filter: filter.unwrap_or_default(), ..request })
}

fn filter() -> impl Strategy<Value = Filter> {
    let bound = || prop_oneof![2 => Just(0), 1 => 1..8_i64];
    (bound(), bound(), bound(), bound()).prop_map(|(min_mod, max_mod, min_create, max_create)| Filter {
        min_mod,
        max_mod,
        min_create,
        max_create,
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0..3_i64).prop_map(CompareTarget::Version),
        (0..8_i64).prop_map(CompareTarget::CreateRevision),
        (0..8_i64).prop_map(CompareTarget::ModRevision),
        (0..3_i64).prop_map(CompareTarget::Lease),
        "[xy]".prop_map(|value| CompareTarget::Value(value.into())),
    ];
    let result =
        prop_oneof![Just(CompareResult::Equal), Just(CompareResult::Greater), Just(CompareResult::Less), Just(CompareResult::NotEqual)];
    (keys(), target, result).prop_map(|(range, target, result)| Compare { range, target, result })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (key(), "[xy]{0,2}", prop_oneof![3 => Just(0), 1 => 1..4_i64], any::<bool>())
            .prop_map(|(key, value, lease, prev_kv)| Op::Put { key, value: value.into(), lease, prev_kv }),
        2 => (keys(), any::<bool>()).prop_map(|(range, prev_kv)| Op::Delete { range, prev_kv }),
        2 => request().prop_map(Op::Range),
        1 => (key(), prop::option::of("[xy]{0,2}"), prop::option::of(0..4_i64), any::<bool>())
            .prop_map(|(key, value, lease, prev_kv)| Op::Update { key, value: value.map(Bytes::from), lease, prev_kv }),
    ]
}

fn txn() -> impl Strategy<Value = Txn> {
    let flat = |ops: usize| {
        (prop::collection::vec(compare(), 0..2), prop::collection::vec(op(), 0..ops), prop::collection::vec(op(), 0..ops))
            .prop_map(|(compare, success, failure)| Txn { compare, success, failure })
    };
    (flat(4), prop::option::weighted(0.3, flat(3)), any::<bool>()).prop_map(|(mut txn, inner, first)| {
        if let Some(inner) = inner {
            let at = if first { 0 } else { txn.success.len() };
            txn.success.insert(at, Op::Txn(Box::new(inner)));
        }
        txn
    })
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        12 => txn().prop_filter("what the handle refuses", |txn| super::check(txn).is_ok()).prop_map(Command::Txn),
        1 => (1..4_i64).prop_map(|id| Command::LeaseGrant { id, ttl_s: 10 }),
        1 => (1..4_i64).prop_map(|id| Command::LeaseRevoke { id }),
        1 => (0..14_i64).prop_map(|revision| Command::Compact { revision }),
    ]
}

/// Every read that a client could make gives the same, and so does every watch.
fn same(machine: &Machine, model: &Model, probe: &RangeRequest) {
    assert_eq!(machine.revision(), model.revision());
    for revision in 0..=model.revision() + 1 {
        let request = RangeRequest { revision, ..probe.clone() };
        assert_eq!(machine.range(&request), model.range(&request), "{request:?}");
        let everything = RangeRequest { revision, ..RangeRequest::new(KeyRange::prefix("")) };
        assert_eq!(machine.range(&everything), model.range(&everything));
    }
    for start in model.compacted.max(2)..=model.revision() {
        let told: Vec<(Revision, Event)> = machine
            .changes_from(start)
            .map(|change| {
                let (version, before) = machine.version(change).expect("a change at or above the compacted revision has its version");
                let kv = version.value.is_some().then(|| version.kv(&change.key));
                if change.revision > model.compacted {
                    let was = &model.states[change.revision as usize - 2].0;
                    if change.sub == 0 {
                        assert_eq!(before.map(|before| before.kv(&change.key)), was.get(&change.key).cloned());
                    }
                }
                (change.revision, (change.key.clone(), kv))
            })
            .collect();
        let happened: Vec<(Revision, Event)> = (start..=model.revision())
            .flat_map(|revision| model.states[revision as usize - 1].1.iter().map(move |event| (revision, event.clone())))
            .collect();
        assert_eq!(told, happened);
    }
}

/// The machine as a restart makes it of a whole image.
fn reloaded(machine: &mut Machine) -> Machine {
    let (whole, mut reading) = machine.delta(None);
    let rows = read(machine, &mut reading, 2);
    machine.abandon();
    made_of(whole, rows)
}

fn read(machine: &Machine, reading: &mut Reading, budget: usize) -> Vec<Row> {
    std::iter::from_fn(|| machine.read(reading, budget)).flatten().collect()
}

fn made_of(whole: Delta, mut rows: Vec<Row>) -> Machine {
    let mut made = Machine::at(whole.revision, whole.compacted);
    for (id, ttl_s) in whole.leases {
        made.load(Row::Lease { id, ttl_s: ttl_s.unwrap() });
    }
    Row::sort(&mut rows);
    rows.into_iter().for_each(|row| made.load(row));
    made.loaded();
    made
}

proptest! {
    #![proptest_config(cases(6000))]

    #[test]
    fn the_machine_does_what_the_model_does(commands in prop::collection::vec(command(), 1..14), probe in request(), collect in 0..3_usize) {
        let (mut machine, mut model) = (Machine::default(), Model::new());
        for command in &commands {
            prop_assert_eq!(machine.apply(command), model.apply(command), "{:?}", command);
            machine.saved(machine.revision());
            machine.collect(collect);
        }
        same(&machine, &model, &probe);
        while machine.collect(1) {}
        same(&machine, &model, &probe);
        let mut made = reloaded(&mut machine);
        same(&made, &model, &probe);
        prop_assert_eq!(made.bytes(), machine.bytes());
        // And it goes on the same way.
        for command in &commands {
            prop_assert_eq!(made.apply(command), model.apply(command), "{:?}", command);
        }
        same(&made, &model, &probe);
    }
}

proptest! {
    #![proptest_config(cases(3000))]

    /// Writes, compactions and the freeing of memory between the slices of a checkpoint do not show in it.
    #[test]
    fn a_checkpoint_is_of_one_moment(
        before in prop::collection::vec(command(), 1..10), meanwhile in prop::collection::vec(command(), 1..10),
        probe in request(), budget in 1..4_usize, share in 0..100_i64,
    ) {
        let (mut machine, mut model) = (Machine::default(), Model::new());
        for command in &before {
            prop_assert_eq!(machine.apply(command), model.apply(command), "{:?}", command);
        }
        let since = 1 + (machine.revision() - 1) * share / 100;
        machine.saved(since);
        while machine.collect(2) {}
        let at_once = {
            let (_, mut reading) = machine.delta(Some(since));
            let rows = read(&machine, &mut reading, usize::MAX);
            machine.abandon();
            rows
        };
        let moment = model.clone();
        for base in [None, Some(since)] {
            let (delta, mut reading) = machine.delta(base);
            let (mut commands, mut rows) = (meanwhile.iter(), Vec::new());
            while let Some(more) = machine.read(&mut reading, budget) {
                rows.extend(more);
                if base.is_none() {
                    // Compactions would be seen by the second round, which is compared with what there was before.
                    commands.by_ref().take(1).for_each(|command| { let _ = machine.apply(command); });
                }
                machine.collect(3);
            }
            match base {
                None => same(&made_of(delta, rows), &moment, &probe),
                Some(_) => prop_assert_eq!(&rows[..at_once.len()], &at_once[..]),
            }
            if base.is_none() {
                machine.abandon();
            }
        }
    }
}

#[test]
fn memory_comes_back_after_compaction() {
    let mut machine = Machine::default();
    for round in 0..100 {
        let put = Op::put("key", format!("{round:0100}"));
        machine.apply(&Command::Txn(Txn { success: vec![put], ..Txn::default() })).unwrap();
    }
    let full = machine.bytes();
    let revision = machine.revision();
    machine.apply(&Command::Compact { revision }).unwrap();
    assert!(!machine.collect(1000), "nothing may be freed that the checkpoint does not have");
    assert_eq!(machine.bytes(), full);
    machine.saved(revision);
    assert!(machine.collect(10));
    assert!(!machine.collect(1000));
    assert_eq!(machine.bytes(), full / 100);
}

/// etcd's way out of a full quota: everything deleted at once, and compacted up to that. What an earlier compaction left as
/// the present goes too.
#[test]
fn what_the_compacted_revision_itself_replaced_is_freed() {
    let mut machine = Machine::default();
    let all = |machine: &mut Machine, command: &Command| {
        machine.apply(command).unwrap();
        machine.saved(machine.revision());
        while machine.collect(3) {}
    };
    for at in 0..10 {
        all(&mut machine, &Command::Txn(Txn { success: vec![Op::put(format!("key{at}"), vec![b'v'; 100])], ..Txn::default() }));
    }
    let revision = machine.revision();
    all(&mut machine, &Command::Compact { revision });
    all(&mut machine, &Command::Txn(Txn { success: vec![Op::delete("key0")], ..Txn::default() }));
    let everything = Op::Delete { range: KeyRange::prefix(""), prev_kv: false };
    all(&mut machine, &Command::Txn(Txn { success: vec![everything], ..Txn::default() }));
    let revision = machine.revision();
    all(&mut machine, &Command::Compact { revision });
    assert_eq!(machine.bytes(), 9 * "key0".len() as u64, "the tombstones of the last revision alone are left");
    assert_eq!(machine.changes_from(revision).count(), 9, "a watch from there is told of them");
}

#[test]
fn what_a_compaction_frees_waits_for_the_checkpoint_and_then_goes() {
    let mut machine = Machine::default();
    machine.apply(&Command::Txn(Txn { success: vec![Op::put("key", "value")], ..Txn::default() })).unwrap();
    let put = machine.revision();
    let delete = Op::Delete { range: KeyRange::key("key"), prev_kv: false };
    machine.apply(&Command::Txn(Txn { success: vec![delete], ..Txn::default() })).unwrap();
    let revision = machine.revision();
    machine.apply(&Command::Compact { revision }).unwrap();
    // The checkpoint has the value, but not yet that it was deleted.
    machine.saved(put);
    assert!(!machine.collect(1000));
    machine.saved(revision);
    machine.collect(1000);
    assert_eq!(machine.bytes(), "key".len() as u64, "the tombstone alone is left");
}
