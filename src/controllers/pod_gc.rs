//! Pods that nobody else will take away: on nodes that are gone, deleted before they had a node, on nodes out of service,
//! and more ended ones than anybody will look at. Follows pkg/controller/podgc.

use super::plan::{Action, Controller, Deletion, Key, Plan};
use super::pods;
use crate::kinds::{Node, Pod, Ref};
use crate::meta::time;
use crate::watch::{Change, Event, Snapshot};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// How long a node may be gone, to be registered anew, before its pods are.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
/// The most ended pods that are kept.
const ENDED_MAX: usize = 12_500;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub struct PodGc;

impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }

    fn settle(&self) -> SignedDuration {
        QUARANTINE
    }

    fn keys_for(&self, event: &Event, snapshot: &Snapshot) -> Vec<Key> {
        if let Some(pod) = Ref::<Pod>::new(event.object.clone()) {
            if event.change == Change::Deleted {
                return Vec::new();
            }
            let mut keys = Vec::new();
            if doomed(snapshot, &pod) {
                keys.push(Key::of(&event.object));
            }
            let was_terminal = event.previous.as_ref().and_then(|o| o.get::<Pod>()).is_some_and(pods::is_terminal);
            if pods::is_terminal(&pod) && !was_terminal {
                keys.push(ended());
            }
            return keys;
        }
        let Some(node) = event.object.get::<Node>() else { return Vec::new() };
        if event.change != Change::Deleted && !is_out_of_service(node) {
            return Vec::new();
        }
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let pods = snapshot.list::<Pod>(None).filter(|p| pods::node_name(p) == name && doomed(snapshot, p));
        pods.map(|p| Key::of(p.object())).collect()
    }

    fn all_keys(&self, snapshot: &Snapshot) -> Vec<Key> {
        let pods = snapshot.list::<Pod>(None).filter(|p| doomed(snapshot, p)).map(|p| Key::of(p.object()));
        pods.chain([ended()]).collect()
    }

    fn reconcile(&self, snapshot: &Snapshot, key: &Key, now: Timestamp) -> Plan {
        if *key == ended() {
            return delete_ended(snapshot);
        }
        let pod = snapshot.get::<Pod>(&key.object.namespace, &key.object.name);
        match pod.filter(|p| doomed(snapshot, p)) {
            Some(pod) => remove(snapshot, &pod, now),
            None => Plan::default(),
        }
    }
}

/// The key of all ended pods together.
fn ended() -> Key {
    Key::new::<Pod>("", "")
}

fn is_out_of_service(node: &core::Node) -> bool {
    let tainted = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == OUT_OF_SERVICE);
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    tainted && !conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn doomed(snapshot: &Snapshot, pod: &Ref<Pod>) -> bool {
    let (name, deleting) = (pods::node_name(pod), pod.metadata.deletion_timestamp.is_some());
    if name.is_empty() {
        return deleting;
    }
    snapshot.get::<Node>("", name).is_none_or(|n| deleting && is_out_of_service(&n))
}

/// Nobody will report that its containers have stopped: it counts as failed, and goes without grace.
fn remove(snapshot: &Snapshot, pod: &Ref<Pod>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if !pods::is_terminal(pod) {
        let mut status = json!({"phase": "Failed"});
        let name = pods::node_name(pod);
        if !name.is_empty() && snapshot.get::<Node>("", name).is_none() {
            status["conditions"] = json!([node_gone(now)]);
        }
        plan.then(vec![Action::strategic(pod.object(), json!({"status": status})).sub("status")]);
    }
    plan.then(vec![delete_now(pod)]);
    plan
}

fn node_gone(now: Timestamp) -> Value {
    json!({
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
        "message": "PodGC: node no longer exists", "lastTransitionTime": time::seconds(now),
    })
}

fn delete_now(pod: &Ref<Pod>) -> Action {
    Action::delete(pod.object(), Deletion { grace_period_seconds: Some(0), ..Deletion::default() })
}

/// Evicted ones first, then the oldest.
fn delete_ended(snapshot: &Snapshot) -> Plan {
    let mut ended: Vec<_> = snapshot.list::<Pod>(None).filter(|p| pods::is_terminal(p)).collect();
    let Some(excess) = ended.len().checked_sub(ENDED_MAX).filter(|&n| n > 0) else { return Plan::default() };
    let evicted = |p: &Ref<Pod>| p.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
    ended.sort_by_key(|p| (!evicted(p), p.metadata.creation_timestamp.clone(), p.metadata.name.clone()));
    Plan::step(ended.iter().take(excess).map(delete_now).collect())
}
