//! The checkers are shown to catch what they are for: a history of a correct store passes; the same history, spoiled in one
//! way, does not, and it is the right checker that says so.

use crate::checks::judge;
use crate::history::{Answer, History, Operation, Outcome, Request, Seen, WatchRecord};
use crate::model::{linearizable, wrote};
use crate::timeline::Timeline;
use crate::watches::{Property, broken};
use crate::wgl::Bounds;
use crate::{random, replay};
use orchd_store::{KeyRange, KeyValue, Revision, StoreError, WatchBatch, WatchEvent};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::setting("SAFETY_SEEDS", 1000) as u32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn correct_histories_pass(seed: u64, clients in 1..12_usize, count in 1..400_usize) {
        judge(&random::history(seed, clients, count)).unwrap();
    }
}

/// Histories that are spoiled in each way: fewer, since each test that spoils them judges several times.
fn seeds() -> std::ops::Range<u64> {
    0..(crate::setting("SAFETY_SEEDS", 1000) as u64 / 50).max(20)
}

fn nothing() -> KeyRange {
    KeyRange::key("none of the workload's")
}

/// A correct history, and its timeline.
fn sound(seed: u64) -> (History, Timeline) {
    let history = random::history(seed, 6, 400);
    judge(&history).unwrap();
    let timeline = Timeline::of(&history).unwrap();
    (history, timeline)
}

fn single_read(operation: &Operation) -> Option<&orchd_store::RangeResponse> {
    match (&operation.request, &operation.outcome) {
        (Request::Range(request), Outcome::Answered(Answer::Range(response))) if request.range.end.is_none() && request.revision == 0 => {
            Some(response)
        }
        _ => None,
    }
}

fn acknowledged(operation: &Operation) -> Option<Revision> {
    match &operation.outcome {
        Outcome::Answered(Answer::Txn(response)) if wrote(response) => Some(response.revision),
        _ => None,
    }
}

/// Both must find it: the revisions' check with its timeline, and the search without one.
fn both_object(history: &History, timeline: &Timeline, what: &str) {
    assert!(replay::check(history, timeline).is_err(), "{what}: not seen by revisions");
    let searched = linearizable(history, &nothing(), None, Bounds::default());
    assert!(searched.as_ref().is_err_and(|error| error.starts_with("not linearizable")), "{what}: the search says {searched:?}");
}

#[test]
fn a_stale_read_is_caught() {
    let (mut caught, all) = (0, seeds().end);
    for seed in seeds() {
        let (mut history, timeline) = sound(seed);
        // A read that is given what stood before a write of its key that had been acknowledged when it was called. (That it
        // was not there at all may be the work of a deletion whose outcome is open.)
        let spoiled = history.operations.iter().enumerate().find_map(|(at, operation)| {
            single_read(operation)?;
            let Request::Range(request) = &operation.request else { return None };
            let before = history.operations.iter().filter(|other| other.ret.is_some_and(|ret| ret < operation.call));
            let known: Vec<Revision> = before.filter_map(acknowledged).collect();
            let touches = |revision: &&Revision| timeline.events[*revision].iter().any(|event| request.range.contains(event.key()));
            let stale = known.iter().filter(touches).max()? - 1;
            let kvs: Vec<KeyValue> = timeline.range(&request.range, stale).into_iter().map(|(key, held)| held.kv(key)).collect();
            (!kvs.is_empty()).then_some((at, stale, *known.iter().max()?, kvs))
        });
        let Some((at, stale, known, kvs)) = spoiled else { continue };
        for revision in [stale, known] {
            let Outcome::Answered(Answer::Range(response)) = &mut history.operations[at].outcome else { unreachable!() };
            (response.revision, response.count, response.kvs) = (revision, kvs.len(), kvs.clone());
            both_object(&history, &timeline, &format!("seed {seed}, stale at {revision}"));
            caught += 1;
        }
    }
    assert!(caught >= all / 2, "only {caught} of {all} histories could be spoiled");
}

#[test]
fn a_lost_acknowledged_write_is_caught() {
    for seed in seeds() {
        let (history, _) = sound(seed);
        // The last revision of all goes, as if the store had forgotten it over a restart: nobody has seen it since.
        let last = history.operations.iter().filter_map(acknowledged).max().unwrap();
        let mut cut = history.clone();
        for watch in &mut cut.watches {
            watch.seen.retain(|seen| matches!(seen, Seen::Batch(batch) if batch.revision < last));
        }
        let told = judge(&cut).unwrap_err();
        assert!(told.starts_with("lost"), "{told}");

        // And by the search alone: whatever read the key afterwards sees what was before it.
        let mut lost = history.clone();
        let timeline = Timeline::of(&history).unwrap();
        let key = timeline.events[&last][0].key().clone();
        let before: Vec<KeyValue> =
            timeline.range(&KeyRange::key(key.clone()), last - 1).into_iter().map(|(key, held)| held.kv(key)).collect();
        // That it is not there may be the work of a deletion whose outcome is open.
        if before.is_empty() {
            continue;
        }
        let end = lost.operations.iter().filter_map(|operation| operation.ret).max().unwrap();
        let response = orchd_store::RangeResponse { revision: last, count: before.len(), kvs: before, more: false };
        lost.operations.push(Operation {
            client: 99,
            call: end + 1,
            ret: Some(end + 2),
            request: Request::Range(orchd_store::RangeRequest::new(KeyRange::key(key))),
            outcome: Outcome::Answered(Answer::Range(response)),
        });
        both_object(&lost, &timeline, &format!("seed {seed}, lost {last}"));
    }
}

#[test]
fn a_write_applied_twice_is_caught() {
    for seed in seeds() {
        let (history, timeline) = sound(seed);
        let put = timeline.events.iter().rev().find_map(|(_, events)| match &events[..] {
            [WatchEvent::Put { kv, .. }] => Some(kv.clone()),
            _ => None,
        });
        let put = put.unwrap();
        // Retried by a proxy that did not know of its success: a revision more, and a version more.
        let mut twice = history.clone();
        let again = KeyValue { mod_revision: timeline.until + 1, version: put.version + 1, ..put.clone() };
        let event = WatchEvent::Put { kv: again.clone(), prev: Some(put.clone()) };
        twice.watches[0].seen.push(Seen::Batch(WatchBatch { revision: timeline.until + 1, events: vec![event].into() }));
        let told = judge(&twice).unwrap_err();
        assert!(told.starts_with("applied twice"), "{told}");

        // By the search alone: a later read of the key shows a version that its one write cannot have.
        let mut read = history.clone();
        let end = read.operations.iter().filter_map(|operation| operation.ret).max().unwrap();
        let response = orchd_store::RangeResponse { revision: timeline.until + 1, count: 1, kvs: vec![again.clone()], more: false };
        read.operations.push(Operation {
            client: 99,
            call: end + 1,
            ret: Some(end + 2),
            request: Request::Range(orchd_store::RangeRequest::new(KeyRange::key(again.key))),
            outcome: Outcome::Answered(Answer::Range(response)),
        });
        both_object(&read, &timeline, &format!("seed {seed}, twice {}", put.mod_revision));
    }
}

#[test]
fn a_swap_that_succeeds_wrongly_is_caught() {
    let (mut caught, all) = (0, seeds().end);
    for seed in seeds() {
        let (mut history, timeline) = sound(seed);
        let failed = history.operations.iter_mut().rev().find_map(|operation| match &mut operation.outcome {
            Outcome::Answered(Answer::Txn(response)) if !response.succeeded => Some(response),
            _ => None,
        });
        let Some(response) = failed else { continue };
        response.succeeded = true;
        both_object(&history, &timeline, &format!("seed {seed}"));
        caught += 1;
    }
    assert!(caught >= all * 3 / 4, "only {caught} of {all} histories could be spoiled");
}

#[test]
fn a_revision_given_twice_is_caught() {
    for seed in seeds() {
        let (mut history, timeline) = sound(seed);
        let mut writes = history.operations.iter_mut().filter(|operation| acknowledged(operation).is_some()).rev();
        let (Some(last), Some(before)) = (writes.next(), writes.next()) else { panic!("too few writes") };
        let revision = acknowledged(before).unwrap();
        let Outcome::Answered(Answer::Txn(response)) = &mut last.outcome else { unreachable!() };
        response.revision = revision;
        assert!(replay::check(&history, &timeline).is_err(), "seed {seed}");
    }
}

/// Spoils the first watch that has enough batches, and tells what the nine properties say.
fn spoiled(seed: u64, spoil: impl Fn(&mut WatchRecord)) -> Vec<Property> {
    let (history, timeline) = sound(seed);
    let watch = history.watches.iter().find(|watch| watch.seen.iter().filter(|seen| matches!(seen, Seen::Batch(_))).count() > 12);
    let mut watch = watch.expect("the watch of everything is long").clone();
    assert_eq!(broken(&watch, &timeline), vec![]);
    spoil(&mut watch);
    broken(&watch, &timeline).into_iter().map(|(property, _)| property).collect()
}

/// Position of a batch in the middle.
fn middle(watch: &WatchRecord) -> usize {
    let batches: Vec<usize> = (0..watch.seen.len()).filter(|at| matches!(watch.seen[*at], Seen::Batch(_))).collect();
    batches[batches.len() / 2]
}

fn batch(watch: &mut WatchRecord, at: usize) -> &mut WatchBatch {
    match &mut watch.seen[at] {
        Seen::Batch(batch) => batch,
        Seen::Bookmark(_) => unreachable!(),
    }
}

fn without_bookmarks(watch: &mut WatchRecord) {
    watch.seen.retain(|seen| matches!(seen, Seen::Batch(_)));
}

#[test]
fn a_watch_that_skips_repeats_or_reorders_is_caught() {
    for seed in seeds() {
        let gap = spoiled(seed, |watch| {
            without_bookmarks(watch);
            watch.seen.remove(middle(watch));
        });
        assert_eq!(gap, vec![Property::Reliable], "a gap");
        let twice = spoiled(seed, |watch| {
            let at = middle(watch);
            let again = watch.seen[at].clone();
            watch.seen.insert(at + 1, again);
        });
        assert!(twice.contains(&Property::Unique), "twice: {twice:?}");
        let order = spoiled(seed, |watch| {
            without_bookmarks(watch);
            let at = middle(watch);
            watch.seen.swap(at, at + 1);
        });
        assert_eq!(order, vec![Property::Ordered], "out of order");
        let late = spoiled(seed, |watch| {
            without_bookmarks(watch);
            watch.seen.remove(0);
        });
        assert_eq!(late, vec![Property::Resumable], "begins late");
    }
}

#[test]
fn a_watch_that_tells_what_is_not_so_is_caught() {
    for seed in seeds() {
        let parts = spoiled(seed, |watch| {
            let pair = (0..watch.seen.len()).find(|at| matches!(&watch.seen[*at], Seen::Batch(batch) if batch.events.len() == 2));
            let Some(at) = pair else { panic!("no transaction of two keys") };
            let Seen::Batch(whole) = watch.seen[at].clone() else { unreachable!() };
            batch(watch, at).events = whole.events[..1].to_vec().into();
            watch.seen.insert(at + 1, Seen::Batch(WatchBatch { revision: whole.revision, events: whole.events[1..].to_vec().into() }));
        });
        assert_eq!(parts, vec![Property::Atomic], "in parts");
        let foreign = spoiled(seed, |watch| watch.range = KeyRange::key("single/nobody's"));
        assert!(foreign.contains(&Property::Filter), "foreign keys: {foreign:?}");
        let early = spoiled(seed, |watch| {
            let at = middle(watch);
            let revision = batch(watch, at).revision;
            watch.seen.insert(at, Seen::Bookmark(revision));
        });
        assert_eq!(early, vec![Property::Bookmarkable], "a bookmark too early");
        let prev = spoiled(seed, |watch| {
            without_bookmarks(watch);
            for seen in &mut watch.seen {
                let Seen::Batch(batch) = seen else { continue };
                let events = batch.events.iter().map(|event| match event {
                    WatchEvent::Put { kv, .. } => WatchEvent::Put { kv: kv.clone(), prev: None },
                    WatchEvent::Delete { key, mod_revision, .. } => {
                        WatchEvent::Delete { key: key.clone(), mod_revision: *mod_revision, prev: None }
                    }
                });
                batch.events = events.collect();
            }
        });
        assert_eq!(prev, vec![Property::PrevKv], "without what was before");
        let created = spoiled(seed, |watch| {
            for seen in &mut watch.seen {
                let Seen::Batch(batch) = seen else { continue };
                let mut events = batch.events.to_vec();
                if let Some(WatchEvent::Put { kv, .. }) = events.first_mut() {
                    kv.create_revision = kv.mod_revision;
                    kv.version = 1;
                }
                batch.events = events.into();
            }
        });
        assert!(created.contains(&Property::IsCreate), "created where it was: {created:?}");
    }
}

#[test]
fn a_cancellation_that_loses_what_is_there_is_caught() {
    let lost = spoiled(3, |watch| watch.end = crate::history::WatchEnd::Cancelled(StoreError::Compacted { compacted: 2 }));
    assert_eq!(lost, vec![Property::Resumable]);
}

/// The search gives up in time rather than never: 40 open writes and a read that none of them explains.
#[test]
fn the_search_is_bounded() {
    use crate::wgl::{Call, Model, Verdict, check};
    struct Register;
    impl Model for Register {
        type Op = (bool, u64);
        type State = std::collections::BTreeSet<u64>;
        fn step(&self, state: &Self::State, op: &(bool, u64)) -> Option<Self::State> {
            let mut state = state.clone();
            if op.0 {
                Some({
                    state.insert(op.1);
                    state
                })
            } else {
                state.contains(&op.1).then_some(state)
            }
        }
        fn guess(&self, _: &(bool, u64)) -> i64 {
            0
        }
    }
    let mut calls: Vec<Call<(bool, u64)>> = (0..40).map(|at| Call { call: at, ret: None, op: (true, at) }).collect();
    calls.push(Call { call: 50, ret: Some(51), op: (false, 77) });
    let bounds = Bounds { steps: 100_000, configurations: 50_000 };
    assert_eq!(check(&Register, Default::default(), &calls, bounds), Verdict::Undecided);
    calls[40].op.1 = 39;
    assert_eq!(check(&Register, Default::default(), &calls, bounds), Verdict::Linearizable);
}
