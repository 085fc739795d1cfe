//! The namespaces that every cluster has; made at start, and again should one be deleted.

use super::plan::{Action, Controller, Key, Plan};
use crate::kinds::Namespace;
use crate::meta::{ObjectMeta, Reason};
use crate::watch::{Change, Event, Snapshot};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;

const SYSTEM: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

pub struct SystemNamespaces;

impl Controller for SystemNamespaces {
    fn name(&self) -> &'static str {
        "system-namespaces-controller"
    }

    fn keys_for(&self, event: &Event, _: &Snapshot) -> Vec<Key> {
        let deleted = event.change == Change::Deleted && event.object.get::<Namespace>().is_some();
        let key = Key::of(&event.object);
        if deleted && SYSTEM.contains(&key.object.name.as_str()) { vec![key] } else { Vec::new() }
    }

    fn all_keys(&self, _: &Snapshot) -> Vec<Key> {
        SYSTEM.iter().map(|name| Key::new::<Namespace>("", name)).collect()
    }

    fn reconcile(&self, snapshot: &Snapshot, key: &Key, _: Timestamp) -> Plan {
        if snapshot.get::<Namespace>("", &key.object.name).is_some() {
            return Plan::default();
        }
        let metadata = ObjectMeta { name: Some(key.object.name.clone()), ..ObjectMeta::default() };
        let namespace = core::Namespace { metadata, ..core::Namespace::default() };
        Plan::step(vec![Action::create::<Namespace>(&namespace).forgive(|s| s.is(Reason::AlreadyExists))])
    }
}
