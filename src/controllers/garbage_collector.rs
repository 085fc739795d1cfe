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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::testing::{World, follow, now_or_never, undone};
    use crate::kinds::{ConfigMap, Registered};
    use serde_json::Value;

    /// A ConfigMap with owners, each by name, uid and whether it blocks.
    fn map(world: &World, name: &str, owners: &[(&str, bool)]) {
        let one = |(owner, blocks): &(&str, bool)| -> Value {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": format!("uid-of-{owner}"), "blockOwnerDeletion": blocks})
        };
        let owners: Vec<Value> = owners.iter().map(one).collect();
        world.put::<ConfigMap>(
            json!({"metadata": {"name": name, "namespace": "a", "uid": format!("uid-of-{name}"), "ownerReferences": owners}}),
        );
    }

    fn delete(world: &World, name: &str, policy: &str) {
        use crate::client::{Client, DeleteOptions, Target};
        let options = DeleteOptions { propagation_policy: Some(policy.into()), ..DeleteOptions::default() };
        now_or_never(world.delete(&Target::object::<ConfigMap>("a", name), &options)).unwrap();
    }

    fn names(world: &World) -> Vec<String> {
        world.all::<ConfigMap>().into_iter().map(|m| m.metadata.name.unwrap()).collect()
    }

    fn collect(world: &World) {
        follow(world, &[&GarbageCollector], |_| false);
        assert!(undone(world, &[&GarbageCollector]).is_empty());
    }

    #[test]
    fn dependents_of_what_is_gone_go_and_theirs_after_them() {
        let world = World::new();
        map(&world, "top", &[]);
        map(&world, "middle", &[("top", true)]);
        map(&world, "bottom", &[("middle", true)]);
        map(&world, "other", &[("top", false), ("root", false)]);
        map(&world, "root", &[]);
        collect(&world);
        assert_eq!(names(&world).len(), 5);
        delete(&world, "top", "Background");
        collect(&world);
        assert_eq!(names(&world), ["other", "root"]);
        let left = world.get::<ConfigMap>("a", "other").unwrap().metadata.owner_references.unwrap();
        assert_eq!(left.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["root"]);
    }

    #[test]
    fn an_owner_of_the_same_name_but_another_uid_is_none() {
        let world = World::new();
        map(&world, "top", &[]);
        map(&world, "child", &[("top", true)]);
        world.take::<ConfigMap>("a", "top");
        world.put::<ConfigMap>(json!({"metadata": {"name": "top", "namespace": "a", "uid": "another"}}));
        collect(&world);
        assert_eq!(names(&world), ["top"]);
    }

    #[test]
    fn in_the_foreground_the_owner_goes_last() {
        let world = World::new();
        map(&world, "top", &[]);
        map(&world, "child", &[("top", true)]);
        world.edit::<ConfigMap>("a", "child", |m| m["metadata"]["finalizers"] = json!(["example.com/wait"]));
        delete(&world, "top", "Foreground");
        collect(&world);
        assert_eq!(names(&world), ["child", "top"]);
        assert!(world.get::<ConfigMap>("a", "child").unwrap().metadata.deletion_timestamp.is_some());
        world.take::<ConfigMap>("a", "child");
        collect(&world);
        assert!(names(&world).is_empty());
    }

    #[test]
    fn orphans_stay_without_the_reference() {
        let world = World::new();
        map(&world, "top", &[]);
        map(&world, "child", &[("top", true)]);
        delete(&world, "top", "Orphan");
        collect(&world);
        assert_eq!(names(&world), ["child"]);
        assert!(world.get::<ConfigMap>("a", "child").unwrap().metadata.owner_references.is_none_or(|r| r.is_empty()));
    }

    #[test]
    fn a_circle_blocks_nobody() {
        let world = World::new();
        map(&world, "one", &[("three", true)]);
        map(&world, "two", &[("one", true)]);
        map(&world, "three", &[("two", true)]);
        delete(&world, "one", "Foreground");
        collect(&world);
        assert!(names(&world).is_empty());
    }

    #[test]
    fn owners_of_unknown_kinds_and_impossible_scopes_count_as_there() {
        let world = World::new();
        let unknown = json!([{"apiVersion": "example.com/v1", "kind": "Widget", "name": "w", "uid": "w"}]);
        world.put::<ConfigMap>(json!({"metadata": {"name": "m", "namespace": "a", "ownerReferences": unknown}}));
        let namespaced = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "m", "uid": "gone"}]);
        world.put::<crate::kinds::Node>(json!({"metadata": {"name": "n", "ownerReferences": namespaced}}));
        collect(&world);
        assert_eq!((names(&world).len(), world.all::<crate::kinds::Node>().len()), (1, 1));
        assert_eq!(ConfigMap::resource().names().plural, "configmaps");
    }
}
