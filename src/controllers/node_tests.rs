//! A node that falls silent, and what becomes of its pods.

use super::node_lifecycle::NodeLifecycle;
use super::plan::{Controller, Key};
use super::pod_gc::PodGc;
use super::taint_eviction::TaintEviction;
use super::testing::{World, follow, run_key, settle, undone};
use crate::kinds::{Lease, Node, Pod};
use k8s_openapi::jiff::SignedDuration;
use serde_json::json;
use std::sync::Arc;

fn node(world: &World, name: &str) {
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": world.now().to_string()});
    world.put::<Node>(json!({"metadata": {"name": name}, "spec": {}, "status": {"conditions": [ready]}}));
    world.put::<Lease>(json!({"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {"renewTime": world.now().to_string()}}));
}

fn renew(world: &World, name: &str) {
    let now = world.now().to_string();
    world.edit::<Lease>("kube-node-lease", name, |l| l["spec"]["renewTime"] = json!(now));
}

fn pod(world: &World, name: &str, node: &str) {
    let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": world.now().to_string()});
    let tolerations =
        json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
    world.put::<Pod>(json!({"metadata": {"name": name, "namespace": "a"}, "status": {"phase": "Running", "conditions": [ready]},
        "spec": {"nodeName": node, "tolerations": tolerations, "containers": [{"name": "c"}]}}));
}

fn taints(world: &World, name: &str) -> Vec<(String, String)> {
    let taints = world.get::<Node>("", name).unwrap().spec.unwrap_or_default().taints.unwrap_or_default();
    taints.into_iter().map(|t| (t.key, t.effect)).collect()
}

fn cluster() -> (Arc<World>, NodeLifecycle) {
    let world = World::new();
    node(&world, "n1");
    node(&world, "n2");
    pod(&world, "p", "n1");
    let lifecycle = NodeLifecycle { started: world.now() };
    settle(&world, &lifecycle);
    (world, lifecycle)
}

#[test]
fn a_silent_node_becomes_unknown_tainted_and_is_cleared_of_pods_in_time() {
    let (world, lifecycle) = cluster();
    let key = Key::new::<Node>("", "n1");
    assert_eq!(run_key(&world, &lifecycle, &key).1, Some(world.now() + SignedDuration::from_secs(40)));
    world.pass(39);
    renew(&world, "n2");
    assert_eq!(undone(&world, &[&lifecycle]), Vec::<String>::new());
    world.pass(1);
    let said = settle(&world, &lifecycle);
    assert!(said.contains(&"NodeNotReady Node n1 status is now: NodeNotReady".to_owned()), "{said:?}");
    let conditions = world.get::<Node>("", "n1").unwrap().status.unwrap().conditions.unwrap();
    assert_eq!(conditions.len(), 4);
    assert!(conditions.iter().all(|c| c.status == "Unknown"));
    let unreachable = |effect: &str| ("node.kubernetes.io/unreachable".to_owned(), effect.to_owned());
    assert_eq!(taints(&world, "n1"), [unreachable("NoSchedule"), unreachable("NoExecute")]);
    assert!(!crate::controllers::pods::is_ready(&world.get::<Pod>("a", "p").unwrap()));
    let at = run_key(&world, &TaintEviction, &Key::new::<Pod>("a", "p")).1;
    assert_eq!(at, Some(world.now() + SignedDuration::from_secs(300)));
    world.pass(300);
    renew(&world, "n2");
    let said = settle(&world, &TaintEviction);
    assert_eq!(said, ["TaintManagerEviction Marking for deletion Pod a/p"]);
    assert!(world.get::<Pod>("a", "p").unwrap().metadata.deletion_timestamp.is_some());
}

#[test]
fn taints_go_when_the_node_is_back_and_stay_if_they_are_others() {
    let (world, lifecycle) = cluster();
    world.edit::<Node>("", "n1", |n| n["spec"]["taints"] = json!([{"key": "mine", "effect": "NoSchedule"}]));
    world.pass(41);
    renew(&world, "n2");
    settle(&world, &lifecycle);
    assert_eq!(taints(&world, "n1").len(), 3);
    node(&world, "n1");
    world.edit::<Node>("", "n1", |n| {
        n["spec"]["taints"] = json!([{"key": "mine", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}])
    });
    follow(&world, &[&lifecycle], |_| false);
    assert_eq!(taints(&world, "n1"), [("mine".to_owned(), "NoSchedule".to_owned())]);
}

#[test]
fn if_no_node_is_well_none_is_cleared() {
    let (world, lifecycle) = cluster();
    world.pass(41);
    settle(&world, &lifecycle);
    for name in ["n1", "n2"] {
        assert_eq!(taints(&world, name), [("node.kubernetes.io/unreachable".to_owned(), "NoSchedule".to_owned())]);
    }
}

#[test]
fn silence_before_the_controllers_started_is_not_held_against_a_node() {
    let (world, _) = cluster();
    world.pass(3600);
    let late = NodeLifecycle { started: world.now() };
    assert_eq!(undone(&world, &[&late]), Vec::<String>::new());
}

#[test]
fn cordoned_nodes_are_tainted_and_undated_evictions_dated() {
    let (world, lifecycle) = cluster();
    world.edit::<Node>("", "n1", |n| n["spec"] = json!({"unschedulable": true, "taints": [{"key": "x", "effect": "NoExecute"}]}));
    settle(&world, &lifecycle);
    let spec = world.get::<Node>("", "n1").unwrap().spec.unwrap();
    assert!(spec.taints.unwrap().iter().all(|t| t.time_added.is_some()));
    assert!(taints(&world, "n1").contains(&("node.kubernetes.io/unschedulable".to_owned(), "NoSchedule".to_owned())));
}

#[test]
fn pods_of_nodes_that_are_gone_fail_and_go() {
    let (world, _) = cluster();
    world.take::<Node>("", "n1");
    let events = world.events();
    let snapshot = crate::watch::Feed::snapshot(&*world);
    let keys: Vec<Key> = events.iter().flat_map(|e| PodGc.keys_for(e, &snapshot)).collect();
    assert!(keys.contains(&Key::new::<Pod>("a", "p")));
    world.burn_after(1);
    run_key(&world, &PodGc, &Key::new::<Pod>("a", "p"));
    let status = world.get::<Pod>("a", "p").unwrap().status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert!(status.conditions.unwrap().iter().any(|c| c.reason.as_deref() == Some("DeletionByPodGC")));
    world.burn_after(usize::MAX);
    settle(&world, &PodGc);
    assert!(world.all::<Pod>().is_empty());
}
