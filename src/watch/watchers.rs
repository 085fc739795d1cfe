//! Who watches what: watchers indexed by resource, namespace and name, so that a change wakes only those it may concern.

use super::record::Record;
use super::snapshot::TableId;
use crate::kinds::ObjectKey;
use std::collections::HashMap;
use std::sync::Arc;

/// What a watch covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Everything,
    Namespace(String),
    Object(ObjectKey),
}

/// The receiving end of a watch. It must not block: it is called while the cache takes in a revision.
pub trait Sink: Send {
    /// Takes a change that may concern it; false ends the watch (its queue is full, or nobody reads it).
    fn change(&mut self, record: &Arc<Record>) -> bool;
    /// Everything up to `revision` has been delivered; false ends the watch.
    fn progress(&mut self, revision: i64) -> bool;
}

type Sinks = Vec<Box<dyn Sink>>;

/// Watchers of one resource.
#[derive(Default)]
struct OfTable {
    all: Sinks,
    namespaces: HashMap<String, Sinks>,
    objects: HashMap<ObjectKey, Sinks>,
}

/// All watchers.
#[derive(Default)]
pub struct Watchers {
    tables: HashMap<TableId, OfTable>,
}

impl Watchers {
    pub fn add(&mut self, table: TableId, scope: Scope, sink: Box<dyn Sink>) {
        let of = self.tables.entry(table).or_default();
        match scope {
            Scope::Everything => of.all.push(sink),
            Scope::Namespace(ns) => of.namespaces.entry(ns).or_default().push(sink),
            Scope::Object(key) => of.objects.entry(key).or_default().push(sink),
        }
    }

    pub fn change(&mut self, table: TableId, key: &ObjectKey, record: &Arc<Record>) {
        let Some(of) = self.tables.get_mut(&table) else { return };
        of.all.retain_mut(|s| s.change(record));
        if let Some(sinks) = of.namespaces.get_mut(&key.namespace) {
            sinks.retain_mut(|s| s.change(record));
        }
        if let Some(sinks) = of.objects.get_mut(key) {
            sinks.retain_mut(|s| s.change(record));
        }
    }

    /// Tells everyone how far the world is, and forgets watchers that have gone.
    pub fn progress(&mut self, revision: i64) {
        for of in self.tables.values_mut() {
            of.all.retain_mut(|s| s.progress(revision));
            of.namespaces.retain(|_, sinks| keep(sinks, revision));
            of.objects.retain(|_, sinks| keep(sinks, revision));
        }
    }

    pub fn count(&self) -> usize {
        let of_map = |n: usize, sinks: &Sinks| n + sinks.len();
        self.tables.values().map(|of| of.all.len() + of.namespaces.values().fold(0, of_map) + of.objects.values().fold(0, of_map)).sum()
    }
}

fn keep(sinks: &mut Sinks, revision: i64) -> bool {
    sinks.retain_mut(|s| s.progress(revision));
    !sinks.is_empty()
}
