//! What a controller is (`Controller`) and what it decides (`Plan`): data that the driver carries out.
//!
//! May import: meta, kinds, watch (Snapshot).

use crate::kinds::{AnyObject, Object, ObjectKey, Registered, Resource};
use crate::meta::{ObjectMeta, Reason, Status};
use crate::watch::{Event, Snapshot};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a controller works on: an object of any kind, by table and name. Two runs of one key never overlap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub group: &'static str,
    pub plural: &'static str,
    pub object: ObjectKey,
}

impl Key {
    pub fn new<K: Registered>(namespace: &str, name: &str) -> Self {
        Self { group: K::NAMES.group, plural: K::NAMES.plural, object: ObjectKey::new(namespace, name) }
    }

    pub fn of(object: &Object) -> Self {
        let names = object.resource().names();
        Self { group: names.group, plural: names.plural, object: object.key() }
    }

    /// The object of this key in `snapshot`.
    pub fn find<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Arc<Object>> {
        let resource = stored().find(|r| r.names().group == self.group && r.names().plural == self.plural)?;
        snapshot.object(resource, &self.object)
    }
}

/// Every resource whose objects are kept under its own name.
pub fn stored() -> impl Iterator<Item = &'static dyn Resource> {
    crate::kinds::all().iter().copied().filter(|r| r.storage() == crate::kinds::Storage::Stored)
}

/// A controller: which keys an event concerns, and what is to be done about a key. Pure and without state; the
/// driver may run any key at any time, and runs a plan's actions at most until the first failure.
pub trait Controller: Send + Sync + 'static {
    /// The component that Events name as their source, such as `replicaset-controller`.
    fn name(&self) -> &'static str;
    /// How long a key waits between the first event that concerns it and its run.
    fn settle(&self) -> SignedDuration {
        SignedDuration::ZERO
    }
    /// Keys whose plan the event may have changed. `snapshot` is at or after the event.
    fn keys_for(&self, event: &Event, snapshot: &Snapshot) -> Vec<Key>;
    /// Every key: at start, and after events were missed.
    fn all_keys(&self, snapshot: &Snapshot) -> Vec<Key>;
    fn reconcile(&self, snapshot: &Snapshot, key: &Key, now: Timestamp) -> Plan;
}

/// Where a change is made: an object, its collection (no name), or a subresource.
#[derive(Clone)]
pub struct Place {
    pub resource: &'static dyn Resource,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<&'static str>,
}

impl Place {
    pub fn of(object: &Object) -> Self {
        let meta = object.meta();
        Self { resource: object.resource(), namespace: meta.namespace.clone(), name: meta.name.clone(), subresource: None }
    }

    fn typed<K: Registered>(meta: &ObjectMeta, name: Option<String>) -> Self {
        Self { resource: K::resource(), namespace: meta.namespace.clone(), name, subresource: None }
    }

    /// Namespace and name, empty where there is none.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace.clone().unwrap_or_default(), self.name.clone().unwrap_or_default())
    }
}

/// Only an object that still fits may be deleted, and what becomes of its dependents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub grace_period_seconds: Option<i64>,
    /// Background, Foreground or Orphan; None leaves it to the API.
    pub propagation_policy: Option<&'static str>,
}

/// A change at the API.
#[derive(Clone)]
pub enum Change {
    Create(Value),
    /// The body's resourceVersion is the precondition.
    Update(Value),
    /// metadata.uid (and resourceVersion, if given) in the body are the preconditions; so too of `Strategic`.
    Merge(Value),
    Strategic(Value),
    Delete(Deletion),
}

/// What an Event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    Is(String),
    /// This, then the name of the object that the action made or changed, or the error that it met.
    Then(String),
}

/// An Event to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub about: ObjectReference,
    pub warning: bool,
    pub reason: &'static str,
    pub text: Text,
}

impl Note {
    pub fn normal(about: ObjectReference, reason: &'static str, text: Text) -> Self {
        Self { about, warning: false, reason, text }
    }
    pub fn warning(about: ObjectReference, reason: &'static str, text: Text) -> Self {
        Self { about, warning: true, reason, text }
    }
}

/// One change, the Events that its outcome deserves, and the errors that are as good as success.
#[derive(Clone)]
pub struct Action {
    pub place: Place,
    pub change: Change,
    pub done: Option<Note>,
    pub failed: Option<Note>,
    pub forgive: fn(&Status) -> bool,
}

/// Nothing is forgiven.
fn never(_: &Status) -> bool {
    false
}

/// The object has gone: what was to be done to it is moot.
pub fn gone(status: &Status) -> bool {
    status.is(Reason::NotFound)
}

/// The namespace is being deleted: nothing can be created in it, and nothing needs to be.
pub fn namespace_terminating(status: &Status) -> bool {
    status.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"))
}

impl Action {
    fn new(place: Place, change: Change, forgive: fn(&Status) -> bool) -> Self {
        Self { place, change, done: None, failed: None, forgive }
    }

    /// Creates `object` in its own namespace.
    pub fn create<K: Registered>(object: &K::Object) -> Self {
        Self::new(Place::typed::<K>(object.meta(), None), Change::Create(object.to_value()), never)
    }

    /// Replaces the object if it is still at the resourceVersion that `object` carries.
    pub fn update<K: Registered>(object: &K::Object) -> Self {
        Self::new(Place::typed::<K>(object.meta(), object.meta().name.clone()), Change::Update(object.to_value()), never)
    }

    /// Deletes this very object (by uid); one that is gone already counts as deleted.
    pub fn delete(object: &Object, deletion: Deletion) -> Self {
        let deletion = Deletion { uid: object.meta().uid.clone(), ..deletion };
        Self::new(Place::of(object), Change::Delete(deletion), gone)
    }

    /// Merge-patches this very object: its uid is added to the body.
    pub fn merge(object: &Object, body: Value) -> Self {
        Self::new(Place::of(object), Change::Merge(with_uid(object, body)), gone)
    }

    /// Patches this very object strategically: its uid is added to the body.
    pub fn strategic(object: &Object, body: Value) -> Self {
        Self::new(Place::of(object), Change::Strategic(with_uid(object, body)), gone)
    }

    /// Only at the revision that `object` shows.
    #[must_use]
    pub fn at(mut self, object: &Object) -> Self {
        let version = &object.meta().resource_version;
        match &mut self.change {
            Change::Create(_) => {}
            Change::Update(body) | Change::Merge(body) | Change::Strategic(body) => body["metadata"]["resourceVersion"] = json!(version),
            Change::Delete(deletion) => deletion.resource_version.clone_from(version),
        }
        self
    }
    #[must_use]
    pub fn sub(mut self, subresource: &'static str) -> Self {
        self.place.subresource = Some(subresource);
        self
    }
    #[must_use]
    pub fn done(mut self, note: Note) -> Self {
        self.done = Some(note);
        self
    }
    #[must_use]
    pub fn failed(mut self, note: Note) -> Self {
        self.failed = Some(note);
        self
    }
    #[must_use]
    pub fn forgive(mut self, forgive: fn(&Status) -> bool) -> Self {
        self.forgive = forgive;
        self
    }
}

fn with_uid(object: &Object, mut body: Value) -> Value {
    body["metadata"]["uid"] = json!(object.uid());
    body
}

/// What the status becomes if a step fails.
pub type OnFailure = Box<dyn FnOnce(&Status) -> Option<Action> + Send>;

/// What is to be done about a key. Empty: all is as it should be.
#[derive(Default)]
pub struct Plan {
    /// One step after the other; a step's actions all at once. The first step that fails ends the plan.
    pub steps: Vec<Vec<Action>>,
    /// The status of the key's own object, written after the last step.
    pub status: Option<Action>,
    /// Takes the place of `status` if a step failed.
    pub on_failure: Option<OnFailure>,
    /// When to look again though nothing has happened.
    pub requeue_at: Option<Timestamp>,
}

impl Plan {
    pub fn step(actions: Vec<Action>) -> Self {
        let mut plan = Self::default();
        plan.then(actions);
        plan
    }

    /// Adds a step; an empty one is none.
    pub fn then(&mut self, actions: Vec<Action>) {
        if !actions.is_empty() {
            self.steps.push(actions);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.status.is_none()
    }

    /// Looks again at `at`, or earlier if that was planned already.
    pub fn requeue(&mut self, at: Timestamp) {
        self.requeue_at = Some(self.requeue_at.map_or(at, |t| t.min(at)));
    }
}

/// What Events and target references say of an object.
pub fn reference(object: &Object) -> ObjectReference {
    let names = object.resource().names();
    let meta = object.meta();
    ObjectReference {
        api_version: Some(names.group_version().to_string()),
        kind: Some(names.kind.into()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectReference::default()
    }
}
