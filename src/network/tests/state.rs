//! From Services and EndpointSlices to what the proxy has to do.

use crate::network::proxy::{HostPort, NodeView, PortName, Protocol, ProxyState, ServicePort};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddrV4};

fn service(name: &str, spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})).expect("a Service")
}

fn web(more: Value) -> Service {
    let mut spec = json!({"clusterIP": "10.96.0.20", "ports": [{"name": "http", "port": 80}]});
    spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    service("web", spec)
}

fn slice(name: &str, endpoints: Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))
    .expect("an EndpointSlice")
}

/// An endpoint by its last byte, with r(eady), s(erving), t(erminating) as letters, on node `here` unless it says `away`.
fn endpoint(byte: u8, conditions: &str) -> Value {
    let has = |letter| conditions.contains(letter);
    json!({
        "addresses": [format!("10.244.0.{byte}")],
        "conditions": {"ready": has('r'), "serving": has('s'), "terminating": has('t')},
        "nodeName": if conditions.contains("away") { "away" } else { "here" },
    })
}

fn node() -> NodeView {
    NodeView { name: "here".into(), zone: "z1".into() }
}

fn only(services: &[Service], slices: &[EndpointSlice]) -> ServicePort {
    let state = ProxyState::of(services, slices, [], &node());
    assert_eq!(state.services.len(), 1, "{state:?}");
    state.services.into_values().next().expect("one")
}

fn bytes(endpoints: &[SocketAddrV4]) -> Vec<u8> {
    endpoints.iter().map(|endpoint| endpoint.ip().octets()[3]).collect()
}

#[test]
fn which_endpoints_are_used() {
    // (endpoints, of policy Cluster, of policy Local)
    let cases: &[(&[(u8, &str)], &[u8], &[u8])] = &[
        (&[], &[], &[]),
        (&[(2, "rs"), (3, "rs away")], &[2, 3], &[2]),
        (&[(2, "s"), (3, "")], &[], &[]),
        (&[(2, "rs"), (3, "st")], &[2], &[2]),
        (&[(2, "st"), (3, "t")], &[2], &[2]),
        (&[(2, "st"), (3, "rs away")], &[3], &[2]),
        (&[(2, "rs away")], &[2], &[]),
    ];
    for (endpoints, cluster, local) in cases {
        let slices = [slice("s", endpoints.iter().map(|(byte, conditions)| endpoint(*byte, conditions)).collect())];
        let port = only(
            &[web(
                json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}),
            )],
            &slices,
        );
        assert_eq!((bytes(&port.cluster), bytes(&port.local)), (cluster.to_vec(), local.to_vec()), "{endpoints:?}");
        assert_eq!(port.has_endpoints, !cluster.is_empty(), "{endpoints:?}");
        let internal = only(&[web(json!({"internalTrafficPolicy": "Local"}))], &slices);
        assert_eq!((internal.cluster.len(), bytes(&internal.local)), (0, local.to_vec()), "{endpoints:?}");
        assert_eq!(internal.has_endpoints, !cluster.is_empty(), "{endpoints:?}");
        let plain = only(&[web(json!({}))], &slices);
        assert_eq!((bytes(&plain.cluster), plain.local.len()), (cluster.to_vec(), 0), "{endpoints:?}");
    }
}

#[test]
fn an_endpoint_of_two_slices_counts_once() {
    let away = slice("1", json!([{"addresses": ["10.244.0.2"], "conditions": {}}]));
    let here = slice("2", json!([endpoint(2, "rs"), endpoint(3, "rs")]));
    let service = web(json!({"internalTrafficPolicy": "Local"}));
    assert_eq!(bytes(&only(std::slice::from_ref(&service), &[away.clone(), here.clone()]).local), [2, 3]);
    assert_eq!(bytes(&only(&[service], &[here, away]).local), [2, 3]);
}

#[test]
fn hints_keep_traffic_near() {
    let with = |byte: u8, hints: Value| {
        let mut endpoint = endpoint(byte, "rs");
        endpoint["hints"] = hints;
        endpoint
    };
    let zone = |name: &str| json!({"forZones": [{"name": name}]});
    let both = |zone: &str, node: &str| json!({"forZones": [{"name": zone}], "forNodes": [{"name": node}]});
    let cases = [
        (json!([with(2, zone("z1")), with(3, zone("z2"))]), vec![2]),
        (json!([with(2, zone("z3")), with(3, zone("z2"))]), vec![2, 3]),
        (json!([with(2, zone("z1")), endpoint(3, "rs")]), vec![2, 3]),
        (json!([with(2, both("z1", "away")), with(3, both("z1", "here"))]), vec![3]),
        (json!([with(2, both("z1", "away")), with(3, zone("z1")), with(4, zone("z2"))]), vec![2, 3]),
    ];
    for (endpoints, expected) in cases {
        assert_eq!(bytes(&only(&[web(json!({}))], &[slice("s", endpoints.clone())]).cluster), expected, "{endpoints}");
    }
}

#[test]
fn what_is_no_service_of_this_proxy() {
    let labelled = |label: &str| {
        let mut service = web(json!({}));
        service.metadata.labels = Some([(label.to_owned(), String::new())].into());
        service
    };
    let none = [
        web(json!({"clusterIP": "None"})),
        web(json!({"type": "ExternalName", "clusterIP": null})),
        web(json!({"clusterIP": "fd00::1"})),
        labelled("service.kubernetes.io/service-proxy-name"),
        labelled("service.kubernetes.io/headless"),
    ];
    for service in none {
        assert!(ProxyState::of([&service], [], [], &node()).services.is_empty(), "{service:?}");
    }
    let dual = web(json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.96.0.9"]}));
    assert_eq!(only(&[dual], &[]).cluster_ip, Ipv4Addr::new(10, 96, 0, 9));
}

#[test]
fn the_older_service_keeps_what_two_claim() {
    let port = json!([{"name": "http", "port": 80, "nodePort": 30080}]);
    let mut old = service("z-old", json!({"type": "NodePort", "clusterIP": "10.96.0.1", "externalIPs": ["192.0.2.1"], "ports": port}));
    let mut new =
        service("a-new", json!({"type": "NodePort", "clusterIP": "10.96.0.2", "externalIPs": ["192.0.2.1", "192.0.2.2"], "ports": port}));
    for (service, second) in [(&mut old, 1), (&mut new, 2)] {
        service.metadata.creation_timestamp = serde_json::from_value(json!(format!("2026-01-01T00:00:0{second}Z"))).expect("a time");
    }
    let state = ProxyState::of([&new, &old], [], [], &node());
    let of = |name: &str| {
        &state.services[&PortName { namespace: "default".into(), service: name.into(), port: "http".into(), protocol: Protocol::Tcp }]
    };
    assert_eq!(of("z-old").node_port, Some(30080));
    assert_eq!(of("z-old").external_ips, [Ipv4Addr::new(192, 0, 2, 1)]);
    assert_eq!(of("a-new").node_port, None);
    assert_eq!(of("a-new").external_ips, [Ipv4Addr::new(192, 0, 2, 2)]);
}

#[test]
fn fronts() {
    let mut service = web(json!({
        "type": "LoadBalancer", "sessionAffinity": "ClientIP", "loadBalancerSourceRanges": ["10.0.0.0/8", " 192.0.2.0/24", "fd00::/8"],
    }));
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}, {"hostname": "x"}]}});
    service.status = Some(serde_json::from_value(ingress).expect("a status"));
    let port = only(&[service], &[]);
    assert_eq!(port.load_balancer_ips, [Ipv4Addr::new(192, 0, 2, 1)]);
    assert_eq!(port.source_ranges.len(), 2);
    assert_eq!(port.affinity_seconds, Some(10_800));
    let config = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}}});
    assert_eq!(only(&[web(config)], &[]).affinity_seconds, Some(7));
}

#[test]
fn host_ports_of_a_pod() {
    let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "a", "ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 8081, "hostIP": "127.0.0.1", "protocol": "UDP"}]},
        {"name": "b", "ports": [{"containerPort": 82, "hostPort": 8082, "hostIP": "0.0.0.0"},
            {"containerPort": 83, "hostPort": 8083, "hostIP": "::1"}]},
    ]}}))
    .expect("a Pod");
    let ip = Ipv4Addr::new(10, 244, 0, 2);
    let expected = [
        HostPort { protocol: Protocol::Udp, host_ip: Some(Ipv4Addr::LOCALHOST), port: 8081, to: SocketAddrV4::new(ip, 81) },
        HostPort { protocol: Protocol::Tcp, host_ip: None, port: 8082, to: SocketAddrV4::new(ip, 82) },
    ];
    assert_eq!(HostPort::of_pod(&pod, ip), expected);
    pod.spec.as_mut().expect("it has one").host_network = Some(true);
    assert_eq!(HostPort::of_pod(&pod, ip), []);
}

proptest! {
    /// Every ready endpoint is used, and nothing that neither is ready nor still serves.
    #[test]
    fn ready_endpoints_are_reachable(conditions in proptest::collection::btree_map(2u8..40, "r?s?t?( away)?", 0..12)) {
        let slices = [slice("s", conditions.iter().map(|(byte, conditions)| endpoint(*byte, conditions)).collect())];
        let port = only(&[web(json!({}))], &slices);
        let ready: Vec<u8> = conditions.iter().filter(|(_, c)| c.contains('r')).map(|(byte, _)| *byte).collect();
        if ready.is_empty() {
            prop_assert!(bytes(&port.cluster).iter().all(|byte| conditions[byte].contains('s') && conditions[byte].contains('t')));
        } else {
            prop_assert_eq!(bytes(&port.cluster), ready);
        }
    }
}
