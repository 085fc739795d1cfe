//! The nine watch properties of etcd's robustness tests, over recorded watches and the timeline.

use crate::history::{Seen, WatchEnd, WatchRecord};
use crate::sequential::Held;
use crate::timeline::{Timeline, bare};
use orchd_store::{Revision, StoreError, WatchBatch, WatchEvent};
use std::collections::{BTreeMap, HashSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// Only what the range covers is delivered.
    Filter,
    /// Revisions never go down.
    Ordered,
    /// No change is delivered twice.
    Unique,
    /// All changes of one revision come together.
    Atomic,
    /// Between the first revision and the last one delivered, nothing is missing and nothing is other than it happened.
    Reliable,
    /// A watch from a revision begins with the first change at or after it, or is told that it is compacted.
    Resumable,
    /// After "everything up to here", nothing up to there comes, and everything up to there has come.
    Bookmarkable,
    /// The state before a change is the one that stood before it.
    PrevKv,
    /// A key is created exactly where it did not exist.
    IsCreate,
}

pub const ALL: [Property; 9] = [
    Property::Filter,
    Property::Ordered,
    Property::Unique,
    Property::Atomic,
    Property::Reliable,
    Property::Resumable,
    Property::Bookmarkable,
    Property::PrevKv,
    Property::IsCreate,
];

/// What a watch breaks; empty: nothing.
pub fn broken(watch: &WatchRecord, timeline: &Timeline) -> Vec<(Property, String)> {
    ALL.iter().filter_map(|property| Some((*property, check(*property, watch, timeline).err()?))).collect()
}

/// # Errors
/// The first watch that breaks a property, with what.
pub fn all_hold(watches: &[WatchRecord], timeline: &Timeline) -> Result<(), String> {
    for watch in watches {
        if let Some((property, what)) = broken(watch, timeline).first() {
            return Err(format!("{property:?}: {what} (watch of {:?} from {}, ended {:?})", watch.range, watch.start, watch.end));
        }
    }
    Ok(())
}

fn check(property: Property, watch: &WatchRecord, timeline: &Timeline) -> Result<(), String> {
    match property {
        Property::Filter => each(watch, |_, event| watch.range.contains(event.key())),
        Property::Ordered => ordered(watch),
        Property::Unique => unique(watch),
        Property::Atomic => atomic(watch),
        Property::Reliable => reliable(watch, timeline),
        Property::Resumable => resumable(watch, timeline),
        Property::Bookmarkable => bookmarkable(watch, timeline),
        Property::PrevKv => each(watch, |revision, event| prev_holds(revision, event, timeline)),
        Property::IsCreate => each(watch, |revision, event| create_holds(revision, event, timeline)),
    }
}

fn batches(watch: &WatchRecord) -> impl Iterator<Item = &WatchBatch> {
    watch.seen.iter().filter_map(|seen| match seen {
        Seen::Batch(batch) => Some(batch),
        Seen::Bookmark(_) => None,
    })
}

fn each(watch: &WatchRecord, holds: impl Fn(Revision, &WatchEvent) -> bool) -> Result<(), String> {
    let events = batches(watch).flat_map(|batch| batch.events.iter().map(|event| (batch.revision, event)));
    events
        .into_iter()
        .find(|(revision, event)| !holds(*revision, event))
        .map_or(Ok(()), |(revision, event)| Err(format!("at revision {revision}: {event:?}")))
}

fn ordered(watch: &WatchRecord) -> Result<(), String> {
    let mut last = 0;
    for batch in batches(watch) {
        if batch.revision < last {
            return Err(format!("revision {} after {last}", batch.revision));
        }
        last = batch.revision;
    }
    Ok(())
}

fn unique(watch: &WatchRecord) -> Result<(), String> {
    let mut met = HashSet::new();
    let events = batches(watch).flat_map(|batch| batch.events.iter().map(|event| (event.key(), batch.revision)));
    events.into_iter().find(|event| !met.insert(*event)).map_or(Ok(()), |twice| Err(format!("delivered twice: {twice:?}")))
}

fn atomic(watch: &WatchRecord) -> Result<(), String> {
    let mut last = None;
    for batch in batches(watch) {
        if last == Some(batch.revision) {
            return Err(format!("revision {} came in parts", batch.revision));
        }
        let other = batch.events.iter().find(|event| revision_of(event) != batch.revision);
        if let Some(other) = other {
            return Err(format!("revision {} came with another's change: {other:?}", batch.revision));
        }
        last = Some(batch.revision);
    }
    Ok(())
}

fn revision_of(event: &WatchEvent) -> Revision {
    match event {
        WatchEvent::Put { kv, .. } => kv.mod_revision,
        WatchEvent::Delete { mod_revision, .. } => *mod_revision,
    }
}

fn reliable(watch: &WatchRecord, timeline: &Timeline) -> Result<(), String> {
    let revisions = || batches(watch).map(|batch| batch.revision);
    let (Some(first), Some(last)) = (revisions().min(), revisions().max()) else { return Ok(()) };
    if last > timeline.until {
        return Err(format!("revision {last} was delivered, but only {} happened", timeline.until));
    }
    let mut delivered: BTreeMap<Revision, Vec<WatchEvent>> = BTreeMap::new();
    for batch in batches(watch) {
        delivered.entry(batch.revision).or_default().extend(batch.events.iter().map(bare));
    }
    for (revision, expected) in timeline.of_range(&watch.range, first.max(timeline.since + 1), last) {
        let mut come = delivered.get(&revision).into_iter().flatten();
        if let Some(missing) = expected.into_iter().map(bare).find(|expected| !come.any(|event| event == expected)) {
            return Err(format!("between {first} and {last}, revision {revision} is not as it happened: {missing:?}"));
        }
    }
    let happened = |batch: &WatchBatch| batch.revision <= timeline.since || timeline.events.contains_key(&batch.revision);
    batches(watch).find(|batch| !happened(batch)).map_or(Ok(()), |never| Err(format!("never happened: {never:?}")))
}

fn resumable(watch: &WatchRecord, timeline: &Timeline) -> Result<(), String> {
    let first = batches(watch).map(|batch| batch.revision).next();
    if let Some(early) = first.filter(|first| watch.start > 0 && *first < watch.start) {
        return Err(format!("asked from {}, got {early}", watch.start));
    }
    if let Some(first) = first.filter(|first| *first > timeline.since) {
        let expected = timeline.of_range(&watch.range, watch.begins.max(timeline.since + 1), first).next().map(|(revision, _)| revision);
        if expected.is_some_and(|expected| expected != first) {
            return Err(format!("from {}, the first change is of {expected:?}; it began with {first}", watch.begins));
        }
    }
    if let WatchEnd::Cancelled(StoreError::Compacted { compacted }) = &watch.end {
        let next = batches(watch).last().map_or(watch.begins, |batch| batch.revision + 1);
        if next >= *compacted {
            return Err(format!("cancelled as compacted at {compacted}, though it stood at {next}"));
        }
    }
    Ok(())
}

fn bookmarkable(watch: &WatchRecord, timeline: &Timeline) -> Result<(), String> {
    let (mut marked, mut delivered) = (0, watch.begins - 1);
    for seen in &watch.seen {
        match seen {
            Seen::Bookmark(revision) => {
                let missing = timeline.of_range(&watch.range, (delivered + 1).max(timeline.since + 1), *revision).next();
                if let Some((missing, _)) = missing {
                    return Err(format!("a bookmark at {revision} before revision {missing} came"));
                }
                marked = marked.max(*revision);
            }
            Seen::Batch(batch) if batch.revision <= marked => {
                return Err(format!("revision {} after a bookmark at {marked}", batch.revision));
            }
            Seen::Batch(batch) => delivered = delivered.max(batch.revision),
        }
    }
    Ok(())
}

fn prev_holds(revision: Revision, event: &WatchEvent, timeline: &Timeline) -> bool {
    // What stood before the history began is not known.
    if revision <= timeline.since + 1 && timeline.since > 1 {
        return true;
    }
    let (WatchEvent::Put { prev, .. } | WatchEvent::Delete { prev, .. }) = event;
    match (timeline.at(event.key(), revision - 1), prev) {
        (Some(_), None) if revision <= timeline.compacted => true,
        (Some(held), Some(prev)) => held.shows(prev),
        (held, prev) => held.is_none() && prev.is_none(),
    }
}

fn create_holds(revision: Revision, event: &WatchEvent, timeline: &Timeline) -> bool {
    let WatchEvent::Put { kv, .. } = event else { return true };
    if revision <= timeline.since {
        return true;
    }
    let created = kv.create_revision == kv.mod_revision;
    match timeline.at(event.key(), revision - 1) {
        Some(Held { create, version, .. }) => !created && *create == Some(kv.create_revision) && kv.version == version + 1,
        None => created && kv.version == 1,
    }
}
