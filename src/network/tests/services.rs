//! Services on a real kernel.

use super::lab::{Answer, Lab, Netns, Pod, ask, call, on_a_node, serve_tcp, serve_udp, udp_socket};
use crate::network::Proxy;
use crate::network::proxy::{HostPort, PortName, Protocol, ProxyState, ServicePort};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);

fn name(service: &str, protocol: Protocol) -> PortName {
    PortName { namespace: "default".into(), service: service.into(), port: String::new(), protocol }
}

/// A service on VIP:80 with these endpoints, all on this node.
fn service(endpoints: &[(Ipv4Addr, u16)]) -> ServicePort {
    let endpoints: Vec<SocketAddrV4> = endpoints.iter().map(|(ip, port)| SocketAddrV4::new(*ip, *port)).collect();
    ServicePort {
        cluster_ip: VIP,
        port: 80,
        node_port: None,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        affinity_seconds: None,
        internal_local: false,
        external_local: false,
        has_endpoints: !endpoints.is_empty(),
        cluster: endpoints,
        local: Vec::new(),
    }
}

fn state(services: impl IntoIterator<Item = (PortName, ServicePort)>) -> ProxyState {
    ProxyState { services: services.into_iter().collect(), host_ports: BTreeSet::new() }
}

fn proxy(lab: &Lab) -> Proxy {
    Proxy::open(lab.options.clone()).expect("a proxy")
}

/// How often each server answered.
fn spread(from: &Netns, to: (Ipv4Addr, u16), calls: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..calls {
        *counts.entry(call(from, to).expect("an answer").from).or_default() += 1;
    }
    counts
}

#[test]
fn cluster_ip_balances_from_pods_and_the_node() {
    on_a_node("cluster_ip_balances_from_pods_and_the_node", |lab| {
        let (a, b, client) = (lab.pod("a"), lab.pod("b"), lab.pod("client"));
        let _servers = (serve_tcp(&a.netns, "a", 8080), serve_tcp(&b.netns, "b", 8080));
        let mut proxy = proxy(lab);
        proxy.sync(state([(name("web", Protocol::Tcp), service(&[(a.ip, 8080), (b.ip, 8080)]))])).expect("synced");
        for from in [&client.netns, &lab.node] {
            let counts = spread(from, (VIP, 80), 60);
            assert_eq!(counts.len(), 2, "{counts:?}");
            assert!(counts.values().all(|count| *count >= 10), "{counts:?}");
        }
        // A pod's own address is what the server sees.
        assert_eq!(call(&client.netns, (VIP, 80)).expect("an answer").seen, client.ip.to_string());
        // Another port of the same address is closed.
        assert_eq!(call(&client.netns, (VIP, 81)).expect_err("closed").kind(), ErrorKind::ConnectionRefused);
        assert_eq!(call(&lab.node, (VIP, 81)).expect_err("closed").kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    on_a_node("a_pod_reaches_itself_through_its_service", |lab| {
        let a = lab.pod("a");
        let _server = serve_tcp(&a.netns, "a", 8080);
        proxy(lab).sync(state([(name("web", Protocol::Tcp), service(&[(a.ip, 8080)]))])).expect("synced");
        let answer = call(&a.netns, (VIP, 80)).expect("an answer");
        assert_eq!(answer, Answer { from: "a".into(), seen: lab.options.node_ip.to_string() });
    });
}

#[test]
fn changes_take_effect_and_no_endpoint_is_refused_at_once() {
    on_a_node("changes_take_effect_and_no_endpoint_is_refused_at_once", |lab| {
        let (a, b, client) = (lab.pod("a"), lab.pod("b"), lab.pod("client"));
        let _servers = (serve_tcp(&a.netns, "a", 8080), serve_tcp(&b.netns, "b", 8080));
        let mut proxy = proxy(lab);
        let mut sync = |endpoints: &[(Ipv4Addr, u16)]| {
            let node_port = Some(30080);
            proxy.sync(state([(name("web", Protocol::Tcp), ServicePort { node_port, ..service(endpoints) })])).expect("synced");
        };
        for _ in 0..3 {
            sync(&[(a.ip, 8080)]);
            assert_eq!(spread(&client.netns, (VIP, 80), 5), BTreeMap::from([("a".into(), 5)]));
            sync(&[(a.ip, 8080), (b.ip, 8080)]);
            sync(&[(b.ip, 8080)]);
            assert_eq!(spread(&client.netns, (VIP, 80), 5), BTreeMap::from([("b".into(), 5)]));
            sync(&[]);
            let start = Instant::now();
            for (from, to) in [(&client.netns, (VIP, 80)), (&lab.node, (VIP, 80)), (&client.netns, (lab.options.node_ip, 30080)), (&lab.node, (Ipv4Addr::LOCALHOST, 30080))] {
                assert_eq!(call(from, to).expect_err("nobody serves").kind(), ErrorKind::ConnectionRefused, "{to:?}");
            }
            assert!(start.elapsed().as_millis() < 1000, "{:?}", start.elapsed());
        }
    });
}

#[test]
fn node_ports_on_every_address() {
    on_a_node("node_ports_on_every_address", |lab| {
        let (a, client) = (lab.pod("a"), lab.pod("client"));
        let _server = serve_tcp(&a.netns, "a", 8080);
        let external = Ipv4Addr::new(192, 0, 2, 7);
        let port = ServicePort { node_port: Some(30080), external_ips: vec![external], ..service(&[(a.ip, 8080)]) };
        proxy(lab).sync(state([(name("web", Protocol::Tcp), port)])).expect("synced");
        let node_ip = lab.options.node_ip;
        for from in [&client.netns, &lab.node] {
            assert_eq!(call(from, (node_ip, 30080)).expect("an answer").from, "a");
            assert_eq!(call(from, (external, 80)).expect("an answer").from, "a");
        }
        assert_eq!(call(&lab.node, (Ipv4Addr::LOCALHOST, 30080)).expect("an answer").seen, node_ip.to_string());
        assert_eq!(call(&client.netns, (node_ip, 30080)).expect("an answer").seen, node_ip.to_string(), "policy Cluster masquerades");
        assert_eq!(call(&a.netns, (node_ip, 30080)).expect("itself").from, "a");
    });
}

#[test]
fn host_ports() {
    on_a_node("host_ports", |lab| {
        let (a, b, client) = (lab.pod("a"), lab.pod("b"), lab.pod("client"));
        let _servers = (serve_tcp(&a.netns, "a", 8080), serve_tcp(&b.netns, "b", 8080));
        let port = |host_ip, to: &Pod| HostPort { protocol: Protocol::Tcp, host_ip, port: 4000, to: SocketAddrV4::new(to.ip, 8080) };
        let node_ip = lab.options.node_ip;
        let host_ports = BTreeSet::from([port(Some(Ipv4Addr::LOCALHOST), &a), port(Some(node_ip), &b)]);
        let mut proxy = proxy(lab);
        proxy.sync(ProxyState { services: BTreeMap::new(), host_ports }).expect("synced");
        assert_eq!(call(&lab.node, (Ipv4Addr::LOCALHOST, 4000)).expect("an answer").from, "a");
        assert_eq!(call(&lab.node, (node_ip, 4000)).expect("an answer").from, "b");
        assert_eq!(call(&client.netns, (node_ip, 4000)).expect("an answer"), Answer { from: "b".into(), seen: client.ip.to_string() });
        assert_eq!(call(&b.netns, (node_ip, 4000)).expect("itself").from, "b");
        proxy.sync(ProxyState { services: BTreeMap::new(), host_ports: BTreeSet::from([port(None, &a)]) }).expect("synced");
        for address in [Ipv4Addr::LOCALHOST, node_ip] {
            assert_eq!(call(&lab.node, (address, 4000)).expect("an answer").from, "a");
        }
        proxy.sync(ProxyState::default()).expect("synced");
        assert!(call(&client.netns, (node_ip, 4000)).is_err());
    });
}

#[test]
fn session_affinity_keeps_a_client_with_its_endpoint() {
    on_a_node("session_affinity_keeps_a_client_with_its_endpoint", |lab| {
        let pods: Vec<Pod> = ["a", "b", "c"].iter().map(|pod| lab.pod(pod)).collect();
        let _servers: Vec<_> = pods.iter().zip(["a", "b", "c"]).map(|(pod, name)| serve_tcp(&pod.netns, name, 8080)).collect();
        let clients: Vec<Pod> = (0..6).map(|index| lab.pod(&format!("client-{index}"))).collect();
        let endpoints: Vec<_> = pods.iter().map(|pod| (pod.ip, 8080)).collect();
        let port = ServicePort { affinity_seconds: Some(100), ..service(&endpoints) };
        let mut proxy = proxy(lab);
        proxy.sync(state([(name("web", Protocol::Tcp), port)])).expect("synced");
        let mut chosen = BTreeMap::new();
        for (index, client) in clients.iter().enumerate() {
            let counts = spread(&client.netns, (VIP, 80), 8);
            assert_eq!(counts.len(), 1, "client {index}: {counts:?}");
            chosen.insert(index, counts.into_keys().next().expect("one"));
        }
        // An endpoint goes: its clients find another, the others stay.
        let port = ServicePort { affinity_seconds: Some(100), ..service(&endpoints[1..]) };
        proxy.sync(state([(name("web", Protocol::Tcp), port)])).expect("synced");
        for (index, client) in clients.iter().enumerate() {
            let counts = spread(&client.netns, (VIP, 80), 4);
            assert_eq!(counts.len(), 1, "client {index}: {counts:?}");
            let now = counts.into_keys().next().expect("one");
            assert!(now != "a" && (chosen[&index] == "a" || chosen[&index] == now), "{index}: {} then {now}", chosen[&index]);
        }
        // Without affinity a client meets both.
        proxy.sync(state([(name("web", Protocol::Tcp), service(&endpoints[1..]))])).expect("synced");
        assert_eq!(spread(&clients[0].netns, (VIP, 80), 30).len(), 2);
    });
}

#[test]
fn udp_flows_follow_the_endpoints() {
    on_a_node("udp_flows_follow_the_endpoints", |lab| {
        let (a, b, client) = (lab.pod("a"), lab.pod("b"), lab.pod("client"));
        let _servers = (serve_udp(&a.netns, "a", 5353), serve_udp(&b.netns, "b", 5353));
        let mut proxy = proxy(lab);
        let mut sync = |endpoints: &[(Ipv4Addr, u16)]| {
            let port = ServicePort { node_port: Some(30053), ..service(endpoints) };
            proxy.sync(state([(name("dns", Protocol::Udp), port)])).expect("synced");
        };
        // The same sockets all along: their flows would stick to the first endpoint.
        let (pod, node) = (udp_socket(&client.netns), udp_socket(&lab.node));
        for (endpoint, who) in [(a.ip, "a"), (b.ip, "b"), (a.ip, "a")] {
            sync(&[(endpoint, 5353)]);
            assert_eq!(ask(&pod, (VIP, 80)).expect("an answer").from, who);
            assert_eq!(ask(&node, (lab.options.node_ip, 30053)).expect("an answer").from, who);
        }
        sync(&[]);
        assert_eq!(ask(&pod, (VIP, 80)).expect_err("nobody").kind(), ErrorKind::ConnectionRefused);
        sync(&[(b.ip, 5353)]);
        assert_eq!(ask(&pod, (VIP, 80)).expect("an answer").from, "b");
    });
}

#[test]
fn policy_local_keeps_the_source_and_drops_without_a_local_endpoint() {
    on_a_node("policy_local_keeps_the_source", |lab| {
        let (a, outside) = (lab.pod("a"), lab.pod("outside"));
        let _server = serve_tcp(&a.netns, "a", 8080);
        // To the rules the second pod is somebody outside the cluster.
        let mut options = lab.options.clone();
        options.cluster_cidr = format!("{}/32", a.ip).parse().expect("a range");
        let mut proxy = Proxy::open(options).expect("a proxy");
        let here = SocketAddrV4::new(a.ip, 8080);
        let elsewhere = SocketAddrV4::new(Ipv4Addr::new(10, 244, 9, 9), 8080);
        let mut sync = |cluster: Vec<SocketAddrV4>, local: Vec<SocketAddrV4>| {
            let port = ServicePort { node_port: Some(30080), external_local: true, has_endpoints: true, cluster, local, ..service(&[]) };
            proxy.sync(state([(name("web", Protocol::Tcp), port)])).expect("synced");
        };
        sync(vec![here, elsewhere], vec![here]);
        for _ in 0..5 {
            let answer = call(&outside.netns, (lab.options.node_ip, 30080)).expect("an answer");
            assert_eq!(answer, Answer { from: "a".into(), seen: outside.ip.to_string() });
        }
        sync(vec![elsewhere], Vec::new());
        assert_eq!(call(&outside.netns, (lab.options.node_ip, 30080)).expect_err("dropped").kind(), ErrorKind::TimedOut);
    });
}

#[test]
fn source_ranges_of_a_load_balancer() {
    on_a_node("source_ranges_of_a_load_balancer", |lab| {
        let (a, friend, stranger) = (lab.pod("a"), lab.pod("friend"), lab.pod("stranger"));
        let _server = serve_tcp(&a.netns, "a", 8080);
        let address = Ipv4Addr::new(192, 0, 2, 9);
        let source_ranges = vec![format!("{}/32", friend.ip).parse().expect("a range")];
        let port = ServicePort { load_balancer_ips: vec![address], source_ranges, ..service(&[(a.ip, 8080)]) };
        proxy(lab).sync(state([(name("web", Protocol::Tcp), port)])).expect("synced");
        assert_eq!(call(&friend.netns, (address, 80)).expect("an answer").from, "a");
        assert_eq!(call(&stranger.netns, (address, 80)).expect_err("dropped").kind(), ErrorKind::TimedOut);
        assert_eq!(call(&stranger.netns, (VIP, 80)).expect("the cluster address is open").from, "a");
    });
}

/// A sync costs what changed, not what there is.
#[test]
fn a_sync_among_many_services() {
    on_a_node("a_sync_among_many_services", |lab| {
        let mut services: BTreeMap<PortName, ServicePort> = (0..2000u16)
            .map(|index| {
                let [high, low] = index.to_be_bytes();
                let cluster_ip = Ipv4Addr::new(10, 97, high, low);
                let endpoints: Vec<_> = (0..4).map(|e| (Ipv4Addr::new(10, 244, high, e), 8080)).collect();
                (name(&format!("s{index}"), Protocol::Tcp), ServicePort { cluster_ip, ..service(&endpoints) })
            })
            .collect();
        let mut proxy = proxy(lab);
        let start = Instant::now();
        proxy.sync(state(services.clone())).expect("synced");
        let first = start.elapsed();
        services.get_mut(&name("s77", Protocol::Tcp)).expect("there").cluster.truncate(1);
        let changed = state(services);
        let start = Instant::now();
        proxy.sync(changed).expect("synced");
        let second = start.elapsed();
        eprintln!("first sync of 2000 services {first:?}, one changed {second:?}");
        assert!(second * 4 < first, "{second:?}");
    });
}
