//! The ServiceAccount `default` of every active namespace. Follows pkg/controller/serviceaccount.

use super::plan::{Action, Controller, Key, Plan, namespace_terminating};
use crate::kinds::{Namespace, Ref, ServiceAccount};
use crate::meta::{ObjectMeta, Reason, Status};
use crate::watch::{Change, Event, Snapshot};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;

const NAME: &str = "default";

pub struct DefaultServiceAccount;

impl Controller for DefaultServiceAccount {
    fn name(&self) -> &'static str {
        "service-account-controller"
    }

    fn keys_for(&self, event: &Event, _: &Snapshot) -> Vec<Key> {
        keys_of_namespace::<ServiceAccount>(event, NAME)
    }

    fn all_keys(&self, snapshot: &Snapshot) -> Vec<Key> {
        super::owners::keys_of::<Namespace>(snapshot)
    }

    fn reconcile(&self, snapshot: &Snapshot, key: &Key, _: Timestamp) -> Plan {
        let namespace = &key.object.name;
        if !is_active(snapshot, namespace) || snapshot.get::<ServiceAccount>(namespace, NAME).is_some() {
            return Plan::default();
        }
        let metadata = ObjectMeta { name: Some(NAME.into()), namespace: Some(namespace.clone()), ..ObjectMeta::default() };
        let account = core::ServiceAccount { metadata, ..core::ServiceAccount::default() };
        Plan::step(vec![Action::create::<ServiceAccount>(&account).forgive(made_or_moot)])
    }
}

/// The namespace of an event about a namespace, or about an object of kind `K` and this name whose loss or change must be
/// made good.
pub fn keys_of_namespace<K: crate::kinds::Registered>(event: &Event, name: &str) -> Vec<Key> {
    let meta = event.object.meta();
    if event.object.get::<Namespace>().is_some() && event.change != Change::Deleted {
        return vec![Key::of(&event.object)];
    }
    if event.object.get::<K>().is_some() && meta.name.as_deref() == Some(name) && event.change != Change::Added {
        return vec![Key::new::<Namespace>("", meta.namespace.as_deref().unwrap_or_default())];
    }
    Vec::new()
}

pub fn is_active(snapshot: &Snapshot, namespace: &str) -> bool {
    let terminating = |n: &Ref<Namespace>| {
        n.metadata.deletion_timestamp.is_some() || n.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Terminating")
    };
    snapshot.get::<Namespace>("", namespace).is_some_and(|n| !terminating(&n))
}

/// Another was faster, or the namespace is on its way out.
pub fn made_or_moot(error: &Status) -> bool {
    error.is(Reason::AlreadyExists) || error.is(Reason::NotFound) || namespace_terminating(error)
}
