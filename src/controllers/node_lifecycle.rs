//! Node life cycle: a node whose lease is not renewed becomes unknown; its conditions become taints; its pods count as not
//! ready. Follows pkg/controller/nodelifecycle.

use super::plan::{Action, Controller, Key, Note, Plan, Text, reference};
use super::{owners::keys_of, pods};
use crate::kinds::{Lease, Node, Pod, Ref};
use crate::meta::time;
use crate::watch::{Change, Event, Snapshot};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::json;

const LEASES: &str = "kube-node-lease";
/// How long a node may be silent: one that has reported, and one that has only just registered.
const GRACE: SignedDuration = SignedDuration::from_secs(40);
const STARTUP_GRACE: SignedDuration = SignedDuration::from_secs(60);
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that a silent node cannot vouch for.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Condition, status, and the taint that keeps pods away then.
const NO_SCHEDULE: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// Knows since when the controllers run: what nodes did not say while nobody listened is not held against them.
pub struct NodeLifecycle {
    pub started: Timestamp,
}

impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn keys_for(&self, event: &Event, snapshot: &Snapshot) -> Vec<Key> {
        let Some(node) = event.object.get::<Node>() else { return Vec::new() };
        let before = event.previous.as_ref().and_then(|o| o.get::<Node>());
        let turned = event.change == Change::Deleted || before.map(ready_status) != Some(ready_status(node));
        // Whether pods may be evicted anywhere depends on whether any node is well.
        if turned { keys_of::<Node>(snapshot) } else { vec![Key::of(&event.object)] }
    }

    fn all_keys(&self, snapshot: &Snapshot) -> Vec<Key> {
        keys_of::<Node>(snapshot)
    }

    fn reconcile(&self, snapshot: &Snapshot, key: &Key, now: Timestamp) -> Plan {
        let Some(node) = snapshot.get::<Node>("", &key.object.name) else { return Plan::default() };
        let mut plan = Plan::default();
        let silent_at = self.silent_at(snapshot, &node);
        if silent_at <= now {
            if let Some(silent) = silenced(&node, now) {
                plan.then(vec![mark_silent(&node, silent)]);
                // Its taints and pods follow from the conditions that have then been written.
                return plan;
            }
        } else {
            plan.requeue(silent_at);
        }
        plan.then(set_taints(snapshot, &node, now).into_iter().collect());
        if ready_status(&node) == "Unknown" {
            plan.then(pods_of(snapshot, &key.object.name).filter_map(|p| mark_not_ready(&p, now)).collect());
        }
        plan
    }
}

fn condition<'a>(node: &'a core::Node, kind: &str) -> Option<&'a core::NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// True, False, Unknown, or nothing.
fn ready_status(node: &core::Node) -> &str {
    condition(node, "Ready").map_or("", |c| c.status.as_str())
}

fn pods_of<'a>(snapshot: &'a Snapshot, node: &'a str) -> impl Iterator<Item = Ref<Pod>> + 'a {
    snapshot.list::<Pod>(None).filter(move |p| pods::node_name(p) == node)
}

impl NodeLifecycle {
    /// When the node counts as silent unless it is heard of again.
    fn silent_at(&self, snapshot: &Snapshot, node: &Ref<Node>) -> Timestamp {
        let ready = condition(node, "Ready");
        let lease = snapshot.get::<Lease>(LEASES, &node.object().key().name);
        let renewed = lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref().map(|t| t.0));
        let beat = ready.and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0);
        let created = node.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let heard = [renewed, beat, created, Some(self.started)].into_iter().flatten().max().unwrap_or(self.started);
        heard + if ready.is_some() { GRACE } else { STARTUP_GRACE }
    }
}

/// The node with every condition unknown; None if they are already.
fn silenced(node: &Ref<Node>, now: Timestamp) -> Option<core::Node> {
    let mut silent = (**node).clone();
    let conditions = silent.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for kind in CONDITIONS {
        let present = conditions.iter_mut().find(|c| c.type_ == kind);
        let (reason, message) = match &present {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        if present.as_ref().is_some_and(|c| c.status == "Unknown") {
            continue;
        }
        changed = true;
        let condition = core::NodeCondition {
            type_: kind.into(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: present.as_ref().map_or(node.metadata.creation_timestamp.clone(), |c| c.last_heartbeat_time.clone()),
            last_transition_time: Some(time::seconds(now)),
        };
        match present {
            Some(c) => *c = condition,
            None => conditions.push(condition),
        }
    }
    changed.then_some(silent)
}

fn mark_silent(node: &Ref<Node>, silent: core::Node) -> Action {
    let action = Action::update::<Node>(&silent).sub("status");
    if ready_status(node) != "True" {
        return action;
    }
    let text = format!("Node {} status is now: NodeNotReady", node.object().key());
    action.done(Note::normal(reference(node.object()), "NodeNotReady", Text::Is(text)))
}

fn taint(key: &str, effect: &str, now: Timestamp) -> core::Taint {
    core::Taint { key: key.into(), value: None, effect: effect.into(), time_added: Some(time::seconds(now)) }
}

/// The taints that this controller gives, for the node's present state.
fn wanted_taints(snapshot: &Snapshot, node: &Ref<Node>, now: Timestamp) -> Vec<core::Taint> {
    let mut wanted = Vec::new();
    for (kind, status, key) in NO_SCHEDULE {
        if condition(node, kind).is_some_and(|c| c.status == status) {
            wanted.push(taint(key, "NoSchedule", now));
        }
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push(taint(UNSCHEDULABLE, "NoSchedule", now));
    }
    // If no node is well, the fault is likely not theirs, and nowhere would be better: then nothing is evicted.
    if snapshot.list::<Node>(None).any(|n| ready_status(&n) == "True") {
        match ready_status(node) {
            "False" => wanted.push(taint(NOT_READY, "NoExecute", now)),
            "Unknown" => wanted.push(taint(UNREACHABLE, "NoExecute", now)),
            _ => {}
        }
    }
    wanted
}

fn is_managed(taint: &core::Taint) -> bool {
    let scheduling =
        taint.effect == "NoSchedule" && (taint.key == UNSCHEDULABLE || NO_SCHEDULE.iter().any(|(_, _, key)| *key == taint.key));
    scheduling || (taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE))
}

/// Brings the node's taints up to date, and dates those that evict: from then on tolerations run.
fn set_taints(snapshot: &Snapshot, node: &Ref<Node>, now: Timestamp) -> Option<Action> {
    let present = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let wanted = wanted_taints(snapshot, node, now);
    let alike = |a: &core::Taint, b: &core::Taint| a.key == b.key && a.effect == b.effect;
    let mut taints: Vec<core::Taint> = present.iter().filter(|t| !is_managed(t) || wanted.iter().any(|w| alike(w, t))).cloned().collect();
    for taint in wanted {
        if !taints.iter().any(|t| alike(t, &taint)) {
            taints.push(taint);
        }
    }
    for taint in taints.iter_mut().filter(|t| t.effect == "NoExecute" && t.time_added.is_none()) {
        taint.time_added = Some(time::seconds(now));
    }
    (taints != present).then(|| Action::merge(node.object(), json!({"spec": {"taints": taints}})).at(node.object()))
}

/// A pod on a silent node is not ready, whatever it said last.
fn mark_not_ready(pod: &Ref<Pod>, now: Timestamp) -> Option<Action> {
    if !pods::is_ready(pod) {
        return None;
    }
    let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": time::seconds(now)});
    let action = Action::strategic(pod.object(), json!({"status": {"conditions": [condition]}})).sub("status");
    let note = Note::warning(reference(pod.object()), "NodeNotReady", Text::Is("Node is not ready".into()));
    Some(action.done(note))
}
