//! `Record`: one change with what its watchers share, made at most once however many they are.

use super::{Change, Event};
use crate::kinds::{Object, Resource};
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// A change, and the objects derived from it that watchers share.
#[derive(Debug)]
pub struct Record {
    event: Event,
    revision: i64,
    departed: OnceLock<Arc<Object>>,
    view: OnceLock<Viewed>,
    bytes: usize,
}

/// The event's objects as another resource shows them.
#[derive(Debug)]
pub struct Viewed {
    pub object: Option<Arc<Object>>,
    pub previous: Option<Arc<Object>>,
}

impl Record {
    /// `bytes` is the size of the stored value, which bounds what histories keep.
    pub fn new(event: Event, revision: i64, bytes: usize) -> Self {
        Self { event, revision, departed: OnceLock::new(), view: OnceLock::new(), bytes }
    }
    pub fn event(&self) -> &Event {
        &self.event
    }
    pub fn revision(&self) -> i64 {
        self.revision
    }
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The state before the change, stamped with the revision of the change: what a watcher is told of an object that
    /// has left its selection.
    pub fn departed(&self) -> Option<&Arc<Object>> {
        let previous = self.event.previous.as_ref()?;
        Some(self.departed.get_or_init(|| Arc::new(Object::new(previous.resource(), previous.any().clone_box(), self.revision))))
    }

    /// The objects as `resource`, a view of the stored kind, shows them. A stored kind has one view at most.
    pub fn viewed(&self, resource: &'static dyn Resource) -> &Viewed {
        self.view.get_or_init(|| Viewed {
            object: view(resource, &self.event.object),
            previous: self.event.previous.as_ref().and_then(|p| view(resource, p)),
        })
    }
}

/// `object` as `resource`, a view of its kind, shows it; None (and a log line) if the view cannot show it.
pub fn view(resource: &'static dyn Resource, object: &Object) -> Option<Arc<Object>> {
    let value: Value = serde_json::from_slice(object.json()).ok()?;
    match resource.decode_value(resource.from_stored(value)) {
        Ok(typed) => Some(Arc::new(Object::new(resource, typed, object.revision()))),
        Err(error) => {
            tracing::warn!(%error, object = ?object, view = resource.names().kind, "an object cannot be shown");
            None
        }
    }
}

/// Whether `change` is one of the object's presence.
pub fn change_of(previous: Option<&Arc<Object>>) -> Change {
    if previous.is_some() { Change::Modified } else { Change::Added }
}
