//! Evicts pods from nodes with NoExecute taints: at once, or when the time that they tolerate is over. Follows
//! pkg/controller/tainteviction.

use super::plan::{Action, Controller, Deletion, Key, Note, Plan, Text, reference};
use super::{owners::keys_of, pods};
use crate::kinds::{Node, Pod, Ref, taints::tolerates};
use crate::meta::time;
use crate::watch::{Change, Event, Snapshot};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::json;

pub struct TaintEviction;

impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn keys_for(&self, event: &Event, snapshot: &Snapshot) -> Vec<Key> {
        if event.change == Change::Deleted {
            return Vec::new();
        }
        if let Some(pod) = event.object.get::<Pod>() {
            let facts = |p: &core::Pod| (pods::node_name(p).to_owned(), p.spec.as_ref().and_then(|s| s.tolerations.clone()));
            let before = event.previous.as_ref().and_then(|o| o.get::<Pod>());
            let changed = before.is_none_or(|b| facts(b) != facts(pod));
            return if changed { vec![Key::of(&event.object)] } else { Vec::new() };
        }
        let Some(node) = event.object.get::<Node>() else { return Vec::new() };
        let before = event.previous.as_ref().and_then(|o| o.get::<Node>());
        if evicting(node).next().is_none() || before.is_some_and(|b| evicting(b).eq(evicting(node))) {
            return Vec::new();
        }
        let name = node.metadata.name.as_deref().unwrap_or_default();
        snapshot.list::<Pod>(None).filter(|p| pods::node_name(p) == name).map(|p| Key::of(p.object())).collect()
    }

    fn all_keys(&self, snapshot: &Snapshot) -> Vec<Key> {
        keys_of::<Pod>(snapshot)
    }

    fn reconcile(&self, snapshot: &Snapshot, key: &Key, now: Timestamp) -> Plan {
        let Some(pod) = snapshot.get::<Pod>(&key.object.namespace, &key.object.name) else { return Plan::default() };
        let node = snapshot.get::<Node>("", pods::node_name(&pod));
        if pod.metadata.deletion_timestamp.is_some() {
            return Plan::default();
        }
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        let times = node.iter().flat_map(|n| evicting(n)).filter_map(|taint| eviction_time(taint, tolerations));
        match times.min() {
            None => Plan::default(),
            Some(at) if at <= now => evict(&pod, now),
            Some(at) => Plan { requeue_at: Some(at), ..Plan::default() },
        }
    }
}

fn evicting(node: &core::Node) -> impl Iterator<Item = &core::Taint> {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == "NoExecute")
}

/// When a pod with these tolerations must go because of the taint; None: never.
fn eviction_time(taint: &core::Taint, tolerations: &[core::Toleration]) -> Option<Timestamp> {
    // The node controller dates taints; until it has, tolerations do not run.
    let since = taint.time_added.as_ref().map(|t| t.0);
    match tolerations.iter().find(|t| tolerates(t, taint)) {
        None => Some(Timestamp::UNIX_EPOCH),
        Some(t) => since.zip(t.toleration_seconds).map(|(since, s)| since + SignedDuration::from_secs(s.clamp(0, i64::from(i32::MAX)))),
    }
}

fn evict(pod: &Ref<Pod>, now: Timestamp) -> Plan {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": time::seconds(now),
    });
    let mut plan = Plan::default();
    if pods::condition(pod, "DisruptionTarget").is_none_or(|c| c.status != "True") {
        plan.then(vec![Action::strategic(pod.object(), json!({"status": {"conditions": [condition]}})).sub("status")]);
    }
    let text = format!("Marking for deletion Pod {}", pod.object().key());
    let note = Note::normal(reference(pod.object()), "TaintManagerEviction", Text::Is(text));
    plan.then(vec![Action::delete(pod.object(), Deletion::default()).done(note)]);
    plan
}
