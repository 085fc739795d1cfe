//! `metadata.managedFields`: reading, writing, and what managers lose to one another.

use super::Manager;
use super::set::{Element, FieldSet};
use super::walk::Changes;
use serde_json::{Map, Value, json};

pub const APPLY: &str = "Apply";
pub const UPDATE: &str = "Update";

/// The most entries of updates; the oldest are put together beyond it.
const MAX_UPDATE_ENTRIES: usize = 10;
const OLD_UPDATES: &str = "ancient-changes";

/// Fields that nobody owns: they name the object, or are the server's.
const OF_METADATA: [&str; 8] =
    ["name", "namespace", "creationTimestamp", "selfLink", "uid", "generation", "managedFields", "resourceVersion"];

/// One manager's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub manager: String,
    pub operation: String,
    pub api_version: String,
    pub subresource: String,
    pub time: Option<String>,
    pub set: FieldSet,
}

impl Entry {
    pub fn new(manager: &Manager<'_>, operation: &str, set: FieldSet) -> Self {
        Self {
            manager: manager.name.to_owned(),
            operation: operation.to_owned(),
            api_version: manager.api_version.to_owned(),
            subresource: manager.subresource.to_owned(),
            time: Some(manager.now.to_owned()),
            set,
        }
    }

    /// An applier is the same whatever version it applies; an updater is told apart by it.
    pub fn same_manager(&self, other: &Entry) -> bool {
        (&self.manager, &self.operation, &self.subresource) == (&other.manager, &other.operation, &other.subresource)
            && (self.operation == APPLY || self.api_version == other.api_version)
    }

    /// As conflicts show it.
    pub fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == UPDATE {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn parse(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Self {
            manager: text("manager"),
            operation: text("operation"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: value["time"].as_str().map(str::to_owned),
            set: FieldSet::from_json(&value["fieldsV1"]),
        }
    }

    fn to_json(&self) -> Value {
        let mut out = json!({"manager": self.manager, "operation": self.operation, "apiVersion": self.api_version,
            "fieldsType": "FieldsV1", "fieldsV1": self.set.to_json()});
        if let Some(time) = &self.time {
            out["time"] = json!(time);
        }
        if !self.subresource.is_empty() {
            out["subresource"] = json!(self.subresource);
        }
        out
    }
}

pub fn read(object: &Value) -> Vec<Entry> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries.filter(|e| e.as_object().is_some_and(|e| !e.is_empty())).map(Entry::parse).collect()
}

/// True for `managedFields: [{}]`, by which a client gives up tracking.
pub fn asks_for_reset(object: &Value) -> bool {
    matches!(object["metadata"]["managedFields"].as_array().map(Vec::as_slice), Some([Value::Object(only)]) if only.is_empty())
}

pub fn remove(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// Writes the entries in apimachinery's order.
pub fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.set.is_empty());
    entries.sort_by(|a, b| {
        (&a.operation, &a.time, &a.manager, &a.api_version, &a.subresource)
            .cmp(&(&b.operation, &b.time, &b.manager, &b.api_version, &b.subresource))
    });
    if entries.is_empty() {
        return remove(object);
    }
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    object["metadata"]["managedFields"] = entries.iter().map(Entry::to_json).collect();
}

/// Takes out what nobody owns.
pub fn strip(set: &mut FieldSet) {
    set.remove_field("apiVersion");
    set.remove_field("kind");
    let metadata = Element::Field("metadata".into());
    if let Some(inner) = set.children.get_mut(&metadata) {
        inner.member = false;
        OF_METADATA.iter().for_each(|field| inner.remove_field(field));
        if inner.is_empty() {
            set.children.remove(&metadata);
        }
    }
}

/// Takes from every entry what somebody else has changed.
pub fn give_up(entries: &mut Vec<Entry>, changes: &Changes) {
    let taken = changes.taken();
    for entry in entries.iter_mut() {
        entry.set.subtract(&taken);
        entry.set.subtract(&changes.removed);
    }
    entries.retain(|e| !e.set.is_empty());
}

/// Puts the oldest updates of a version together until no more than `MAX_UPDATE_ENTRIES` are left.
pub fn cap(entries: &mut Vec<Entry>) {
    let mut excess = entries.iter().filter(|e| e.operation == UPDATE).count().saturating_sub(MAX_UPDATE_ENTRIES);
    if excess == 0 {
        return;
    }
    entries.sort_by(|a, b| a.time.cmp(&b.time).then_with(|| a.manager.cmp(&b.manager)));
    let mut at = 0;
    while excess > 0 && at < entries.len() {
        let (first, version) = (&entries[at], entries[at].api_version.clone());
        let next = if first.operation == UPDATE {
            entries.iter().skip(at + 1).position(|e| e.operation == UPDATE && e.api_version == version)
        } else {
            None
        };
        let Some(next) = next.map(|n| n + at + 1) else {
            at += 1;
            continue;
        };
        let newer = entries.remove(next);
        let bucket = &mut entries[at];
        bucket.set.union(&newer.set);
        bucket.time = newer.time;
        OLD_UPDATES.clone_into(&mut bucket.manager);
        bucket.subresource.clear();
        excess -= 1;
    }
}
