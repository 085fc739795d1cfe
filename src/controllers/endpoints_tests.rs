//! EndpointSlices and Endpoints of the same Services, side by side.

use super::endpoint_slice::EndpointSlices;
use super::endpoints::EndpointsController;
use super::plan::Controller;
use super::testing::{World, follow, undone};
use crate::kinds::{EndpointSlice, Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1 as discovery;
use serde_json::{Value, json};
use std::sync::Arc;

fn both() -> [&'static dyn Controller; 2] {
    [&EndpointSlices, &EndpointsController]
}

fn world() -> Arc<World> {
    let world = World::new();
    world.put::<Node>(json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z"}}}));
    world
}

fn service(world: &World, extra: Value) {
    let mut service = json!({"metadata": {"name": "web", "namespace": "a", "labels": {"l": "1"}}, "spec": {
        "clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "www"}]}});
    json_patch::merge(&mut service, &extra);
    world.put::<Service>(service);
}

fn pod(world: &World, name: &str, ip: &str, port: i32, ready: bool) {
    let condition = json!({"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:05Z"});
    world.put::<Pod>(json!({
        "metadata": {"name": name, "namespace": "a", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "www", "containerPort": port, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [condition]}
    }));
}

fn slices(world: &World) -> Vec<discovery::EndpointSlice> {
    world.all::<EndpointSlice>()
}

fn addresses(world: &World, ready: bool) -> Vec<String> {
    let subsets = world.get::<Endpoints>("a", "web").unwrap().subsets.unwrap_or_default();
    let list = subsets.into_iter().flat_map(|s| if ready { s.addresses } else { s.not_ready_addresses }.unwrap_or_default());
    list.map(|a| a.ip).collect()
}

#[test]
fn a_service_without_pods_has_an_empty_slice_and_empty_endpoints() {
    let world = world();
    service(&world, json!({}));
    follow(&world, &both(), |_| false);
    let slice = slices(&world).remove(0);
    assert!(slice.endpoints.is_empty() && slice.ports.unwrap().is_empty());
    let labels = slice.metadata.labels.unwrap();
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
    assert_eq!((labels["kubernetes.io/service-name"].as_str(), labels["l"].as_str()), ("web", "1"));
    assert_eq!(slice.metadata.owner_references.unwrap()[0].kind, "Service");
    let endpoints = world.get::<Endpoints>("a", "web").unwrap();
    assert!(endpoints.subsets.is_none());
    assert_eq!(endpoints.metadata.labels.unwrap()["endpoints.kubernetes.io/managed-by"], "endpoint-controller");
    assert_eq!(undone(&world, &both()), Vec::<String>::new());
    world.take::<Service>("a", "web");
    follow(&world, &both(), |_| false);
    assert!(world.all::<Endpoints>().is_empty());
}

#[test]
fn endpoints_follow_readiness_termination_and_named_ports() {
    let world = world();
    service(&world, json!({}));
    pod(&world, "p1", "10.0.0.1", 8080, true);
    pod(&world, "p2", "10.0.0.2", 8080, false);
    pod(&world, "p3", "10.0.0.3", 9090, true);
    follow(&world, &both(), |_| false);
    assert_eq!((addresses(&world, true), addresses(&world, false)), (vec!["10.0.0.1".into(), "10.0.0.3".into()], vec!["10.0.0.2".into()]));
    let by_port = |port: i32| slices(&world).into_iter().find(|s| s.ports.as_ref().unwrap()[0].port == Some(port)).unwrap();
    assert_eq!(slices(&world).len(), 2);
    let first = &by_port(8080).endpoints[0];
    assert_eq!((first.node_name.as_deref(), first.zone.as_deref()), (Some("n1"), Some("z")));
    assert_eq!(first.target_ref.as_ref().unwrap().name.as_deref(), Some("p1"));
    world.edit::<Pod>("a", "p1", |p| p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:09Z"));
    follow(&world, &both(), |_| false);
    let c = by_port(8080).endpoints.into_iter().find(|e| e.addresses == ["10.0.0.1"]).unwrap().conditions.unwrap();
    assert_eq!((c.ready, c.serving, c.terminating), (Some(false), Some(true), Some(true)));
    assert_eq!(addresses(&world, true), ["10.0.0.3"]);
    world.take::<Pod>("a", "p1");
    world.edit::<Pod>("a", "p2", |p| p["status"]["phase"] = json!("Failed"));
    follow(&world, &both(), |_| false);
    assert_eq!(slices(&world).len(), 1);
    assert_eq!(undone(&world, &both()), Vec::<String>::new());
}

#[test]
fn headless_services_say_so_and_may_publish_what_is_not_ready() {
    let world = world();
    service(&world, json!({"spec": {"clusterIP": "None", "publishNotReadyAddresses": true}}));
    pod(&world, "p1", "10.0.0.1", 8080, false);
    follow(&world, &both(), |_| false);
    let slice = slices(&world).remove(0);
    assert_eq!(slice.metadata.labels.unwrap()["service.kubernetes.io/headless"], "");
    assert_eq!(slice.endpoints[0].conditions.as_ref().unwrap().ready, Some(true));
    assert_eq!(addresses(&world, true), ["10.0.0.1"]);
}

#[test]
fn a_slice_holds_a_hundred_and_gaps_are_filled() {
    let world = world();
    service(&world, json!({}));
    for i in 0..150 {
        pod(&world, &format!("p{i:03}"), &format!("10.0.1.{i}"), 8080, true);
    }
    follow(&world, &[&EndpointSlices], |_| false);
    let mut sizes: Vec<usize> = slices(&world).iter().map(|s| s.endpoints.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100]);
    for i in 0..30 {
        world.take::<Pod>("a", &format!("p{i:03}"));
        pod(&world, &format!("q{i:03}"), &format!("10.0.2.{i}"), 8080, true);
    }
    follow(&world, &[&EndpointSlices], |_| false);
    assert_eq!(slices(&world).iter().map(|s| s.endpoints.len()).sum::<usize>(), 150);
    assert!(slices(&world).len() <= 3 && slices(&world).iter().all(|s| s.endpoints.len() <= 100));
    assert_eq!(undone(&world, &[&EndpointSlices]), Vec::<String>::new());
}

#[test]
fn what_others_keep_is_left_alone() {
    let world = world();
    service(&world, json!({"spec": {"selector": null}}));
    world.put::<Endpoints>(json!({"metadata": {"name": "web", "namespace": "a"}, "subsets": []}));
    world.put::<Endpoints>(json!({"metadata": {"name": "alone", "namespace": "a"}, "subsets": []}));
    follow(&world, &both(), |_| false);
    assert_eq!((world.all::<Endpoints>().len(), slices(&world).len()), (2, 0));
    assert_eq!(undone(&world, &both()), Vec::<String>::new());
}
