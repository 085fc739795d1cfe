//! Garbage collection over ownerReferences: background, foreground, orphans, circles. Follows
//! pkg/controller/garbagecollector.
//!
//! A snapshot shows one revision of every kind, and an owner's uid exists before anything refers to it; so an owner that a
//! snapshot lacks is gone for good, and needs no second look at the API.

use super::owners::release;
use super::plan::{Action, Controller, Deletion, Key, Plan};
use crate::kinds::{Object, find_kind};
use crate::meta::{GroupVersion, ObjectMeta, OwnerReference};
use crate::watch::{Change, Event, Snapshot};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use std::sync::Arc;

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

pub struct GarbageCollector;

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    fn keys_for(&self, event: &Event, snapshot: &Snapshot) -> Vec<Key> {
        let object = &event.object;
        let before = event.previous.as_ref().filter(|p| p.uid() == object.uid());
        let mut keys = Vec::new();
        // Under an old name a new object: to its dependents the old one is deleted.
        if let Some(old) = event.previous.as_ref().filter(|p| p.uid() != object.uid()) {
            keys.extend(dependents(snapshot, old).map(|d| Key::of(d)));
            keys.extend(waiting_owners(snapshot, old.meta()));
        }
        let relevant = |m: &ObjectMeta| (m.owner_references.clone(), m.finalizers.clone(), m.deletion_timestamp.is_some());
        if event.change == Change::Deleted {
            keys.extend(dependents(snapshot, object).map(|d| Key::of(d)));
            keys.extend(waiting_owners(snapshot, object.meta()));
        } else if before.is_none_or(|b| relevant(b.meta()) != relevant(object.meta())) {
            if concerns(object) {
                keys.push(Key::of(object));
            }
            if is_deleting_dependents(object.meta()) {
                keys.extend(dependents(snapshot, object).map(|d| Key::of(d)));
            }
            // What no longer blocks its former owner's deletion, and what has just begun to go.
            keys.extend(before.into_iter().flat_map(|b| waiting_owners(snapshot, b.meta())));
        }
        keys
    }

    fn all_keys(&self, snapshot: &Snapshot) -> Vec<Key> {
        snapshot.everything().filter(|o| concerns(o)).map(|o| Key::of(o)).collect()
    }

    fn reconcile(&self, snapshot: &Snapshot, key: &Key, _: Timestamp) -> Plan {
        let Some(object) = key.find(snapshot) else { return Plan::default() };
        let meta = object.meta();
        if meta.deletion_timestamp.is_some() {
            if has_finalizer(meta, ORPHAN) {
                return orphan_dependents(snapshot, object);
            }
            if has_finalizer(meta, FOREGROUND) && !dependents(snapshot, object).any(|d| blocks(d.meta(), object.uid())) {
                return Plan::step(vec![remove_finalizer(object, FOREGROUND)]);
            }
            return Plan::default();
        }
        collect(snapshot, object)
    }
}

/// True if there may be something to do about the object itself.
fn concerns(object: &Object) -> bool {
    let meta = object.meta();
    let owned = meta.owner_references.as_ref().is_some_and(|r| !r.is_empty());
    owned || (meta.deletion_timestamp.is_some() && (has_finalizer(meta, FOREGROUND) || has_finalizer(meta, ORPHAN)))
}

fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == name)
}

fn is_deleting_dependents(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND)
}

/// What refers to the object as an owner, from where it may.
fn dependents<'a>(snapshot: &'a Snapshot, owner: &'a Object) -> impl Iterator<Item = &'a Arc<Object>> {
    let namespace = owner.meta().namespace.as_deref();
    snapshot.owned_by(owner.uid()).filter(move |d| namespace.is_none() || d.meta().namespace.as_deref() == namespace)
}

fn blocks(meta: &ObjectMeta, owner_uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|r| r.uid == owner_uid && r.block_owner_deletion == Some(true))
}

/// Owners that wait for their dependents to go.
fn waiting_owners(snapshot: &Snapshot, meta: &ObjectMeta) -> Vec<Key> {
    let owners = meta.owner_references.iter().flatten().filter_map(|r| match owner(snapshot, meta, r) {
        Owner::There(o) => Some(o),
        Owner::Gone | Owner::Unknown => None,
    });
    owners.filter(|o| is_deleting_dependents(o.meta())).map(|o| Key::of(o)).collect()
}

enum Owner<'a> {
    There(&'a Arc<Object>),
    Gone,
    /// Of a kind that is not served here, or of a scope that a cluster-wide object cannot refer to: nothing can be said,
    /// and so nothing is deleted.
    Unknown,
}

fn owner<'a>(snapshot: &'a Snapshot, meta: &ObjectMeta, reference: &OwnerReference) -> Owner<'a> {
    let Some(gv) = GroupVersion::parse(&reference.api_version) else { return Owner::Unknown };
    let Some(resource) = find_kind(&gv.group, &gv.version, &reference.kind) else { return Owner::Unknown };
    let namespace = match (resource.names().namespaced, meta.namespace.as_deref()) {
        (true, None) => return Owner::Unknown,
        (true, Some(namespace)) => namespace,
        (false, _) => "",
    };
    let key = crate::kinds::ObjectKey::new(namespace, &reference.name);
    match snapshot.object(resource, &key) {
        Some(object) if object.uid() == reference.uid => Owner::There(object),
        _ => Owner::Gone,
    }
}

/// Decides about an object by the state of its owners.
fn collect(snapshot: &Snapshot, object: &Arc<Object>) -> Plan {
    let meta = object.meta();
    let (mut solid, mut gone, mut waiting) = (0, Vec::new(), Vec::new());
    for reference in meta.owner_references.iter().flatten() {
        match owner(snapshot, meta, reference) {
            Owner::Gone => gone.push(reference.uid.as_str()),
            Owner::There(o) if is_deleting_dependents(o.meta()) => waiting.push(reference.uid.as_str()),
            Owner::There(_) | Owner::Unknown => solid += 1,
        }
    }
    if gone.is_empty() && waiting.is_empty() {
        return Plan::default();
    }
    if solid > 0 {
        let useless: Vec<_> = gone.iter().chain(&waiting).map(|uid| json!({"$patch": "delete", "uid": uid})).collect();
        return Plan::step(vec![Action::strategic(object, json!({"metadata": {"ownerReferences": useless}}))]);
    }
    if !waiting.is_empty() && dependents(snapshot, object).next().is_some() {
        return delete_in_foreground(snapshot, object);
    }
    let policy = if has_finalizer(meta, ORPHAN) {
        "Orphan"
    } else if has_finalizer(meta, FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    };
    let deletion = Deletion { propagation_policy: Some(policy), ..Deletion::default() };
    Plan::step(vec![Action::delete(object, deletion).at(object)])
}

/// The object waits for its own dependents in turn; if they may wait for it, it stops blocking its owners first.
fn delete_in_foreground(snapshot: &Snapshot, object: &Arc<Object>) -> Plan {
    let deletion = Deletion { propagation_policy: Some("Foreground"), ..Deletion::default() };
    let mut plan = Plan::default();
    if dependents(snapshot, object).any(|d| is_deleting_dependents(d.meta())) {
        let unblocked: Vec<_> = object.meta().owner_references.iter().flatten().filter(|r| r.block_owner_deletion == Some(true)).collect();
        if !unblocked.is_empty() {
            let references: Vec<_> = unblocked.iter().map(|r| json!({"uid": r.uid, "blockOwnerDeletion": false})).collect();
            plan.then(vec![Action::strategic(object, json!({"metadata": {"ownerReferences": references}}))]);
        }
        plan.then(vec![Action::delete(object, deletion)]);
    } else {
        plan.then(vec![Action::delete(object, deletion).at(object)]);
    }
    plan
}

fn orphan_dependents(snapshot: &Snapshot, object: &Arc<Object>) -> Plan {
    let mut plan = Plan::step(dependents(snapshot, object).map(|d| release(d, object.uid())).collect());
    plan.then(vec![remove_finalizer(object, ORPHAN)]);
    plan
}

fn remove_finalizer(object: &Object, name: &str) -> Action {
    let rest: Vec<&String> = object.meta().finalizers.iter().flatten().filter(|f| *f != name).collect();
    Action::merge(object, json!({"metadata": {"finalizers": rest}})).at(object)
}
