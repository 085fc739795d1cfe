//! What happened, revision by revision: put together from every watch, which must agree.

use crate::history::{History, Outcome, Request, Seen};
use crate::sequential::{Change, Held, Keys};
use bytes::Bytes;
use orchd_store::{KeyRange, Revision, WatchEvent};
use std::collections::{BTreeMap, HashMap};

/// Every change since the beginning of a history.
pub struct Timeline {
    /// No change at or before this one.
    pub since: Revision,
    pub until: Revision,
    /// The highest revision that anybody asked to compact: what was before it may not be told any more.
    pub compacted: Revision,
    pub events: BTreeMap<Revision, Vec<WatchEvent>>,
    /// By key: its states, by revision.
    states: BTreeMap<Bytes, Vec<(Revision, Option<Held>)>>,
}

impl Timeline {
    /// Needs at least one watch of every key from the beginning on.
    ///
    /// # Errors
    /// Watches disagree about a revision, or nobody saw one.
    pub fn of(history: &History) -> Result<Self, String> {
        let everything = KeyRange::prefix("");
        let mut events: BTreeMap<Revision, Vec<WatchEvent>> = BTreeMap::new();
        for watch in history.watches.iter().filter(|watch| watch.range == everything) {
            for seen in &watch.seen {
                let Seen::Batch(batch) = seen else { continue };
                if batch.revision <= history.since {
                    continue;
                }
                let held = events.entry(batch.revision).or_insert_with(|| batch.events.to_vec());
                // What was before a change may have been compacted away for one of them.
                if !held.iter().map(bare).eq(batch.events.iter().map(bare)) {
                    return Err(format!(
                        "two watches of everything saw different things at revision {}: {held:?} and {:?}",
                        batch.revision, batch.events
                    ));
                }
            }
        }
        let until = events.keys().next_back().copied().unwrap_or(history.since);
        if let Some(gap) = (history.since + 1..=until).find(|revision| !events.contains_key(revision)) {
            return Err(format!("nobody saw revision {gap}, though {until} was seen"));
        }
        let compacted = history.operations.iter().filter_map(|operation| match (&operation.request, &operation.outcome) {
            (Request::Compact(revision), Outcome::Answered(_) | Outcome::Unknown) => Some(*revision),
            _ => None,
        });
        let mut timeline = Self { since: history.since, until, compacted: compacted.max().unwrap_or(0), events, states: BTreeMap::new() };
        timeline.fold()?;
        Ok(timeline)
    }

    /// Follows every key, checking that each event goes on from the one before.
    fn fold(&mut self) -> Result<(), String> {
        let mut values: HashMap<&Bytes, Revision> = HashMap::new();
        for (revision, events) in &self.events {
            for event in events {
                let change = Change::of(event);
                if let WatchEvent::Put { kv, .. } = event {
                    if kv.mod_revision != *revision {
                        return Err(format!("an event of revision {revision} says {}: {event:?}", kv.mod_revision));
                    }
                    if let Some(before) = values.insert(&kv.value, *revision) {
                        return Err(format!("applied twice: the value of {event:?} was put at revision {before} too"));
                    }
                }
                self.states.entry(change.key).or_default().push((*revision, change.now));
            }
        }
        Ok(())
    }

    /// A key's state at a revision.
    pub fn at(&self, key: &[u8], revision: Revision) -> Option<&Held> {
        let states = self.states.get(key)?;
        let behind = states.partition_point(|(at, _)| *at <= revision);
        states[..behind].last()?.1.as_ref()
    }

    /// A range's state at a revision.
    pub fn range(&self, range: &KeyRange, revision: Revision) -> Vec<(&Bytes, &Held)> {
        let keys = self.states.range(range.start.clone()..).map(|(key, _)| key).take_while(|key| !past(range, key));
        keys.filter(|key| range.contains(key)).filter_map(|key| Some((key, self.at(key, revision)?))).collect()
    }

    /// The state of some ranges at a revision, as a map.
    pub fn keys<'a>(&self, ranges: impl Iterator<Item = &'a KeyRange>, revision: Revision) -> Keys {
        ranges.flat_map(|range| self.range(range, revision)).map(|(key, held)| (key.clone(), held.clone())).collect()
    }

    /// Revisions above `after` that touch a range, with what happened to it.
    pub fn of_range<'a>(
        &'a self,
        range: &'a KeyRange,
        from: Revision,
        to: Revision,
    ) -> impl Iterator<Item = (Revision, Vec<&'a WatchEvent>)> {
        let bounds = from.min(to + 1)..to + 1;
        self.events
            .range(bounds)
            .map(|(revision, events)| (*revision, events.iter().filter(|event| range.contains(event.key())).collect::<Vec<_>>()))
            .filter(|(_, events)| !events.is_empty())
    }
}

/// What an event says, but for the state before it.
pub fn bare(event: &WatchEvent) -> WatchEvent {
    match event {
        WatchEvent::Put { kv, .. } => WatchEvent::Put { kv: kv.clone(), prev: None },
        WatchEvent::Delete { key, mod_revision, .. } => WatchEvent::Delete { key: key.clone(), mod_revision: *mod_revision, prev: None },
    }
}

fn past(range: &KeyRange, key: &[u8]) -> bool {
    match &range.end {
        None => key > &range.start[..],
        Some(end) if end[..] == [0] => false,
        Some(end) => key >= &end[..],
    }
}
