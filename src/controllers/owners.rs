//! Ownership: which objects a controller controls, and how it adopts and releases by its selector.

use super::plan::{Action, Key};
use crate::kinds::{Kind, Object, Ref, Registered, controller_of};
use crate::meta::{ObjectMeta, OwnerReference, Selector};
use crate::watch::{Event, Snapshot};
use serde_json::json;
use std::sync::Arc;

/// The reference by which `owner` controls an object.
pub fn controller_ref(owner: &Object) -> OwnerReference {
    let names = owner.resource().names();
    OwnerReference {
        api_version: names.group_version().to_string(),
        kind: names.kind.into(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.uid().into(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// True if `owner` controls the object.
pub fn is_controlled_by(meta: &ObjectMeta, owner: &Object) -> bool {
    controller_of(meta).is_some_and(|r| r.uid == owner.uid())
}

/// What a controller owns, and what is still to be done for it.
pub struct Claims<K: Kind> {
    pub owned: Vec<Ref<K>>,
    /// Adoptions and releases.
    pub actions: Vec<Action>,
}

/// Goes over the objects of kind `K` in the owner's namespace: keeps those it controls and selects, adopts orphans that
/// it selects, releases what it controls and no longer selects. `eligible` says what counts at all.
pub fn claim<K: Registered>(snapshot: &Snapshot, owner: &Object, selector: &Selector, eligible: impl Fn(&K::Object) -> bool) -> Claims<K> {
    let mut claims = Claims { owned: Vec::new(), actions: Vec::new() };
    let deleting = owner.meta().deletion_timestamp.is_some();
    let controlled = snapshot.owned_by(owner.uid()).filter(|o| is_controlled_by(o.meta(), owner));
    for object in controlled.filter_map(|o| Ref::<K>::new(o.clone())).filter(|o| eligible(o)) {
        if selector.matches(object.object().meta().labels.as_ref()) {
            claims.owned.push(object);
        } else if !deleting {
            claims.actions.push(release(object.object(), owner.uid()));
        }
    }
    // The index knows no order; plans should not depend on chance.
    claims.owned.sort_by_key(|o| o.object().key());
    if deleting {
        return claims;
    }
    let namespace = owner.meta().namespace.as_deref();
    for object in snapshot.list::<K>(namespace) {
        let meta = object.object().meta();
        let orphan = controller_of(meta).is_none() && meta.deletion_timestamp.is_none();
        if orphan && selector.matches(meta.labels.as_ref()) && eligible(&object) {
            claims.actions.push(adopt(object.object(), owner));
            claims.owned.push(object);
        }
    }
    claims
}

fn adopt(object: &Object, owner: &Object) -> Action {
    Action::strategic(object, json!({"metadata": {"ownerReferences": [controller_ref(owner)]}}))
}

/// Takes the reference to the owner of this uid away.
pub fn release(object: &Object, owner_uid: &str) -> Action {
    Action::strategic(object, json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": owner_uid}]}}))
}

/// Keys of the controllers of kind `Owner` that a change of an object of kind `K` concerns: who controls it or did, and
/// for an orphan whoever selects it.
pub fn keys_of_owners<K: Registered, Owner: Registered>(
    event: &Event,
    snapshot: &Snapshot,
    selector_of: impl Fn(&Owner::Object) -> Option<Selector>,
) -> Vec<Key> {
    if event.object.get::<K>().is_none() {
        return Vec::new();
    }
    let meta = event.object.meta();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let before = event.previous.as_ref().map(|o| o.meta());
    let (now, old) = (controller_of(meta), before.and_then(controller_of));
    let mut keys: Vec<Key> = Vec::new();
    for reference in now.into_iter().chain(old.filter(|r| now.is_none_or(|n| n.uid != r.uid))) {
        let owner = snapshot.get::<Owner>(namespace, &reference.name);
        if reference.kind == Owner::NAMES.kind && owner.is_some_and(|o| o.object().uid() == reference.uid) {
            keys.push(Key::new::<Owner>(namespace, &reference.name));
        }
    }
    let changed = before.is_none_or(|b| b.labels != meta.labels || old.is_some());
    if now.is_none() && changed {
        let selects = |o: &Ref<Owner>| selector_of(o).is_some_and(|s| !s.is_empty() && s.matches(meta.labels.as_ref()));
        keys.extend(snapshot.list::<Owner>(Some(namespace)).filter(selects).map(|o| Key::of(o.object())));
    }
    keys
}

/// Keys of every object of a kind.
pub fn keys_of<K: Registered>(snapshot: &Snapshot) -> Vec<Key> {
    snapshot.objects(K::resource(), None).map(|o: &Arc<Object>| Key::of(o)).collect()
}

/// The event's own key, if it is about an object of kind `K`.
pub fn own_key<K: Registered>(event: &Event) -> Option<Key> {
    event.object.get::<K>().map(|_| Key::of(&event.object))
}
