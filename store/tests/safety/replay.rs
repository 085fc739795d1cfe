//! Strict serialisability by revisions: the cheap check, exact where the store tells its revisions, before `wgl` judges.
//!
//! The timeline is the only order that the revisions allow. Every answer must be what that order gives at its revision; no
//! operation may stand before one that had returned when it was called; every revision must have been written by exactly
//! one operation, or by a lease that ended.

use crate::history::{Answer, History, Operation, Outcome, Request};
use crate::model::{values, wrote};
use crate::sequential::{Change, Ran, run, shown};
use crate::timeline::Timeline;
use bytes::Bytes;
use orchd_store::{KeyRange, Op, RangeRequest, RangeResponse, Revision, StoreError, Txn, WatchEvent};
use std::collections::{BTreeMap, HashMap};

/// Returns the revisions of operations whose outcome is open but which did write.
///
/// # Errors
/// What does not fit, in words.
pub fn check(history: &History, timeline: &Timeline) -> Result<BTreeMap<usize, Revision>, String> {
    let floors = floors(history);
    let mut owners: BTreeMap<Revision, usize> = BTreeMap::new();
    for (at, operation) in history.operations.iter().enumerate() {
        let wrong = |what: String| format!("{what}: {operation:?}");
        match (&operation.request, &operation.outcome) {
            (Request::Txn(txn), Outcome::Answered(Answer::Txn(response))) => {
                let writes = wrote(response);
                placed(response.revision, writes, floors[at], timeline).map_err(wrong)?;
                let before = response.revision - i64::from(writes);
                let ran = rerun(timeline, txn, before, response.revision);
                if !ran.answers(response) {
                    return Err(wrong(format!("not what the order of revisions gives at {before}")));
                }
                if writes {
                    if !matches(&ran, &timeline.events[&response.revision]) {
                        return Err(wrong(format!("its revision saw other changes: {:?}", timeline.events[&response.revision])));
                    }
                    if let Some(other) = owners.insert(response.revision, at) {
                        return Err(wrong(format!("its revision was given to another too: {:?}", history.operations[other])));
                    }
                }
            }
            (Request::Range(request), Outcome::Answered(Answer::Range(response))) => {
                placed(response.revision, false, floors[at], timeline).map_err(wrong)?;
                read(timeline, request, response).map_err(wrong)?;
            }
            (Request::RangeLocal(request), Outcome::Answered(Answer::Range(response))) => {
                placed(response.revision, false, 0, timeline).map_err(wrong)?;
                read(timeline, request, response).map_err(wrong)?;
            }
            (_, Outcome::Refused(error)) => refused(&operation.request, error, floors[at]).map_err(wrong)?,
            _ => {}
        }
    }
    explained(history, timeline, &floors, &owners)
}

/// For each operation, the highest revision that anybody had been told when it was called.
fn floors(history: &History) -> Vec<Revision> {
    let mut moments: Vec<(u64, usize, Option<Revision>)> = Vec::new();
    for (at, operation) in history.operations.iter().enumerate() {
        moments.push((operation.call, at, None));
        if let (Some(ret), Some(revision)) = (operation.ret, told(operation)) {
            moments.push((ret, at, Some(revision)));
        }
    }
    moments.sort_unstable();
    let (mut floor, mut floors) = (history.since, vec![0; history.operations.len()]);
    for (_, at, told) in moments {
        match told {
            Some(revision) => floor = floor.max(revision),
            None => floors[at] = floor,
        }
    }
    floors
}

fn told(operation: &Operation) -> Option<Revision> {
    match &operation.outcome {
        Outcome::Answered(Answer::Txn(response)) => Some(response.revision),
        Outcome::Answered(Answer::Range(response)) => Some(response.revision),
        _ => None,
    }
}

fn placed(revision: Revision, writes: bool, floor: Revision, timeline: &Timeline) -> Result<(), String> {
    if writes && revision <= floor {
        return Err(format!("written at {revision}, though {floor} had been told before it was called"));
    }
    if revision < floor {
        return Err(format!("stale: answered at {revision}, though {floor} had been told before it was called"));
    }
    if revision > timeline.until || revision < timeline.since || (writes && revision == timeline.since) {
        return Err(format!("lost: answered at {revision}, but only {}..={} happened", timeline.since + 1, timeline.until));
    }
    Ok(())
}

fn rerun(timeline: &Timeline, txn: &Txn, before: Revision, revision: Revision) -> Ran {
    let puts = |op: &Op| match op {
        Op::Put { key, .. } => Some(KeyRange::key(key.clone())),
        Op::Delete { range, .. } | Op::Range(RangeRequest { range, .. }) => Some(range.clone()),
        Op::Txn(_) | Op::Update { .. } => None,
    };
    let ranges: Vec<KeyRange> =
        txn.compare.iter().map(|compare| compare.range.clone()).chain(txn.success.iter().chain(&txn.failure).filter_map(puts)).collect();
    run(&mut timeline.keys(ranges.iter(), before), txn, Some(revision))
}

fn matches(ran: &Ran, events: &[WatchEvent]) -> bool {
    ran.changes.len() == events.len()
        && ran.changes.iter().zip(events).all(|(change, event)| *event.key() == change.key && change.now == Change::of(event).now)
}

fn read(timeline: &Timeline, request: &RangeRequest, response: &RangeResponse) -> Result<(), String> {
    let at = if request.revision == 0 { response.revision } else { request.revision };
    if at > response.revision {
        return Err(format!("a read of {at} answered at {}", response.revision));
    }
    // What was before this history began is not known.
    if at < timeline.since {
        return Ok(());
    }
    let found = timeline.range(&request.range, at);
    let kept = if request.limit == 0 { found.len() } else { found.len().min(request.limit) };
    let right = response.count == found.len() && response.more == (kept < found.len()) && shown(&found[..kept], &response.kvs);
    if right { Ok(()) } else { Err(format!("not what stood at {at}, which is {found:?}")) }
}

fn refused(request: &Request, error: &StoreError, floor: Revision) -> Result<(), String> {
    let asked = match request {
        Request::Range(request) | Request::RangeLocal(request) => request.revision,
        Request::Compact(revision) => *revision,
        _ => return Ok(()),
    };
    let local = matches!(request, Request::RangeLocal(_));
    match error {
        StoreError::Compacted { compacted } if asked > *compacted || asked == 0 => Err(format!("refused as compacted, at {compacted}")),
        StoreError::Future { current } if asked <= *current => Err(format!("refused as not yet there, at {current}")),
        StoreError::Future { current } if *current < floor && !local => {
            Err(format!("stale: refused at {current}, though {floor} had been told"))
        }
        _ => Ok(()),
    }
}

/// Every revision that no acknowledged operation wrote was written by one whose outcome is open, or by a lease's end.
fn explained(
    history: &History,
    timeline: &Timeline,
    floors: &[Revision],
    owners: &BTreeMap<Revision, usize>,
) -> Result<BTreeMap<usize, Revision>, String> {
    let open = || history.operations.iter().enumerate().filter(|(_, operation)| operation.outcome == Outcome::Unknown);
    let mut by_value: HashMap<&Bytes, usize> = HashMap::new();
    let mut deleting: Vec<usize> = Vec::new();
    for (at, operation) in open() {
        let Request::Txn(txn) = &operation.request else { continue };
        by_value.extend(values(txn).map(|value| (value, at)));
        if txn.success.iter().chain(&txn.failure).any(|op| matches!(op, Op::Delete { .. })) {
            deleting.push(at);
        }
    }
    let mut found: BTreeMap<usize, Revision> = BTreeMap::new();
    for (revision, events) in &timeline.events {
        if owners.contains_key(revision) || leased(events) {
            continue;
        }
        let put = events.iter().find_map(|event| match event {
            WatchEvent::Put { kv, .. } => Some(&kv.value),
            WatchEvent::Delete { .. } => None,
        });
        let candidates: Vec<usize> = match put {
            Some(value) => by_value.get(value).copied().into_iter().collect(),
            None => deleting.clone(),
        };
        let fits = |at: &&usize| {
            if found.contains_key(*at) {
                return false;
            }
            let Request::Txn(txn) = &history.operations[**at].request else { return false };
            floors[**at] < *revision && matches(&rerun(timeline, txn, revision - 1, *revision), events)
        };
        let Some(at) = candidates.iter().find(fits) else {
            return Err(format!("revision {revision} was written by nobody: {events:?}"));
        };
        found.insert(*at, *revision);
    }
    Ok(found)
}

/// Whether a lease's end may have done this: it deletes every key of one lease.
fn leased(events: &[WatchEvent]) -> bool {
    let leases: Vec<i64> = events
        .iter()
        .map(|event| match event {
            WatchEvent::Delete { prev: Some(prev), .. } => prev.lease,
            _ => 0,
        })
        .collect();
    leases.iter().all(|lease| *lease != 0 && *lease == leases[0])
}
