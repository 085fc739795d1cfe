use super::cluster::Cluster;
use super::cycle::schedule;
use super::queue::Queue;
use super::wanted::{Wanted, is_waiting};
use crate::kinds::{Kind, Node, Object, Pod, Ref, Registered};
use crate::watch::{Change, Event};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;

fn object<K: Registered + Kind>(value: Value) -> Ref<K> {
    Ref::new(Arc::new(Object::new(K::resource(), K::resource().decode_value(value).unwrap(), 1))).unwrap()
}

fn node(name: &str, spec: Value) -> Ref<Node> {
    let labels = json!({"kubernetes.io/hostname": name, "size": name.len().to_string()});
    object(json!({"metadata": {"name": name, "uid": name, "labels": labels}, "spec": spec,
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "ephemeral-storage": "10Gi", "pods": "4"}}}))
}

fn pod(name: &str, spec: Value) -> Ref<Pod> {
    let mut whole = json!({"containers": [{"name": "c"}]});
    json_patch::merge(&mut whole, &spec);
    object(json!({"metadata": {"name": name, "namespace": "a", "uid": name}, "spec": whole, "status": {"phase": "Pending"}}))
}

fn asks(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
}

fn event(object: &Arc<Object>, change: Change) -> Event {
    Event { change, object: object.clone(), previous: None }
}

fn cluster(nodes: &[Ref<Node>]) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.take(&event(node.object(), Change::Added));
    }
    cluster
}

fn place(cluster: &Cluster, name: &str, spec: Value) -> Result<String, String> {
    schedule(cluster, &Wanted::new(pod(name, spec)))
}

fn why(reason: &str, preemption: &str) -> Result<String, String> {
    Err(format!("0/1 nodes are available: 1 {reason}. no new claims to deallocate, preemption: 0/1 nodes are available: 1 {preemption}."))
}

const NEVER: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

#[test]
fn each_filter_names_its_reason() {
    let affinity = |term: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}});
    let tainted = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
    let toleration = json!({"tolerations": [{"key": "k", "operator": "Exists"}]});
    let here: Result<String, String> = Ok("n1".into());
    let mismatch = why("node(s) didn't match Pod's node affinity/selector", NEVER);
    for (node_spec, spec, expected) in [
        (json!({}), json!({}), here.clone()),
        (json!({}), asks("2"), here.clone()),
        (json!({}), asks("2001m"), why("Insufficient cpu", NEVER)),
        (json!({"unschedulable": true}), json!({}), why("node(s) were unschedulable", NEVER)),
        (tainted.clone(), json!({}), why("node(s) had untolerated taint(s)", NEVER)),
        (tainted, toleration, here.clone()),
        (json!({}), json!({"nodeSelector": {"kubernetes.io/hostname": "n1"}}), here.clone()),
        (json!({}), json!({"nodeSelector": {"kubernetes.io/hostname": "n2"}}), mismatch.clone()),
        (json!({}), affinity(json!({"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["1"]}]})), here.clone()),
        (json!({}), affinity(json!({"matchExpressions": [{"key": "size", "operator": "Lt", "values": ["2"]}]})), mismatch.clone()),
        (json!({}), affinity(json!({"matchExpressions": [{"key": "nothing", "operator": "DoesNotExist"}]})), here.clone()),
        (json!({}), affinity(json!({})), mismatch),
        (json!({}), affinity(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]})), here),
        (
            json!({}),
            affinity(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]})),
            why("node(s) didn't satisfy plugin(s) [NodeAffinity]", NEVER),
        ),
    ] {
        assert_eq!(place(&cluster(&[node("n1", node_spec.clone())]), "p", spec.clone()), expected, "{node_spec} {spec}");
    }
    assert_eq!(place(&cluster(&[]), "p", json!({})), Err("no nodes available to schedule pods".into()));
}

#[test]
fn what_is_placed_takes_room_until_it_goes() {
    let mut cluster = cluster(&[node("n1", json!({}))]);
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let mut bound = port.clone();
    bound["nodeName"] = json!("n1");
    let first = pod("first", bound);
    cluster.take(&event(first.object(), Change::Added));
    assert_eq!(place(&cluster, "p", port.clone()), why("node(s) didn't have free ports for the requested pod ports", NO_VICTIMS));
    assert!(cluster.take(&event(first.object(), Change::Deleted)), "room came free");
    assert_eq!(place(&cluster, "p", port), Ok("n1".into()));
    cluster.assume(Wanted::new(pod("assumed", asks("1500m"))), "n1");
    assert_eq!(place(&cluster, "p", asks("1")), why("Insufficient cpu", NO_VICTIMS));
    cluster.forget("assumed");
    assert_eq!(place(&cluster, "p", asks("1")), Ok("n1".into()));
    for i in 0..4 {
        cluster.assume(Wanted::new(pod(&format!("small-{i}"), json!({}))), "n1");
    }
    assert_eq!(place(&cluster, "p", json!({})), why("Too many pods", NO_VICTIMS));
}

#[test]
fn assumed_pods_count_once_when_their_binding_is_seen_and_not_after_they_end() {
    let mut cluster = cluster(&[node("n1", json!({}))]);
    cluster.assume(Wanted::new(pod("p", asks("2"))), "n1");
    let mut bound = asks("2");
    bound["nodeName"] = json!("n1");
    let seen = pod("p", bound.clone());
    assert!(!cluster.take(&event(seen.object(), Change::Modified)));
    cluster.forget("p");
    assert!(place(&cluster, "q", asks("1")).is_err());
    let ended: Ref<Pod> = object(json!({"metadata": {"name": "p", "namespace": "a", "uid": "p"},
        "spec": {"nodeName": "n1", "containers": []}, "status": {"phase": "Succeeded"}}));
    assert!(cluster.take(&event(ended.object(), Change::Modified)));
    assert_eq!(place(&cluster, "q", asks("1")), Ok("n1".into()));
}

#[test]
fn pods_go_where_there_is_most_room_and_siblings_spread() {
    let mut cluster = cluster(&[node("n1", json!({})), node("n2", json!({})), node("n3", json!({"unschedulable": true}))]);
    cluster.assume(Wanted::new(pod("big", asks("1"))), "n1");
    assert_eq!(place(&cluster, "p", asks("100m")), Ok("n2".into()));
    let sibling = |name: &str| {
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]);
        let value = json!({"metadata": {"name": name, "namespace": "a", "uid": name, "ownerReferences": owner}, "spec": {"containers": [{"name": "c"}]}});
        Wanted::new(object::<Pod>(value))
    };
    let mut on = Vec::new();
    for i in 0..4 {
        let wanted = sibling(&format!("s{i}"));
        let node = schedule(&cluster, &wanted).unwrap();
        cluster.assume(wanted, &node);
        on.push(node);
    }
    on.sort();
    assert_eq!(on, ["n1", "n1", "n2", "n2"]);
}

#[test]
fn the_message_counts_reasons_in_order() {
    let cluster = cluster(&[node("n1", json!({"unschedulable": true})), node("n2", json!({})), node("n3", json!({}))]);
    let text = place(&cluster, "p", asks("3")).unwrap_err();
    assert_eq!(
        text,
        "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. no new claims to deallocate, \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    );
}

#[test]
fn the_queue_goes_by_priority_then_age_and_parked_pods_wait_for_help() {
    let at = |ms: i64| Timestamp::from_millisecond(ms).unwrap();
    let mut queue = Queue::default();
    queue.add(Wanted::new(pod("low", json!({}))));
    queue.add(Wanted::new(pod("next", json!({}))));
    queue.add(Wanted::new(pod("high", json!({"priority": 10}))));
    let order: Vec<String> = std::iter::from_fn(|| queue.pop()).map(|w| w.uid().to_owned()).collect();
    assert_eq!(order, ["high", "low", "next"]);
    queue.park("low", at(0));
    queue.retry("next", at(0));
    queue.wake(at(99));
    assert!(queue.pop().is_none());
    queue.wake(at(100));
    assert_eq!(queue.pop().unwrap().uid(), "next");
    queue.help_all();
    queue.wake(at(100));
    assert_eq!(queue.pop().unwrap().uid(), "low");
    queue.park("low", at(200));
    assert_eq!(queue.next_due(), Some(at(200) + SignedDuration::from_mins(5)));
    queue.remove("low");
    assert_eq!((queue.next_due(), queue.contains("low"), queue.contains("high")), (None, false, true));
}

#[test]
fn only_pods_that_are_free_to_go_wait() {
    for (spec, waits) in [
        (json!({}), true),
        (json!({"schedulerName": "default-scheduler"}), true),
        (json!({"schedulerName": "other"}), false),
        (json!({"schedulingGates": [{"name": "g"}]}), false),
        (json!({"nodeName": "n1"}), false),
    ] {
        assert_eq!(is_waiting(&pod("p", spec.clone())), waits, "{spec}");
    }
}
