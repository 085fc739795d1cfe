//! Rules as data: a small model of the kernel takes the transactions, refuses what the kernel would refuse, and is asked
//! where packets go.

use super::{HostPort, PortName, Protocol, ProxyState, ServicePort, base, difference};
use crate::network::NetworkOptions;
use crate::network::nft::{Change, Expression, Key, Rule, Set, SetKind, Verdict};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

fn options() -> NetworkOptions {
    let range = |text: &str| text.parse().expect("a range");
    NetworkOptions {
        node_ip: Ipv4Addr::new(10, 250, 0, 1),
        pod_cidr: range("10.244.0.0/24"),
        cluster_cidr: range("10.244.0.0/16"),
        service_cidr: range("10.96.0.0/12"),
    }
}

/// A table of the kernel, as far as these tests need it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    chains: BTreeMap<String, Vec<Rule>>,
    sets: BTreeMap<String, Set>,
    elements: BTreeMap<(String, Key), Option<Verdict>>,
}

fn verdicts(rule: &Rule) -> impl Iterator<Item = &Verdict> {
    rule.0.iter().flat_map(|expression| match expression {
        Expression::Verdict(verdict) => std::slice::from_ref(verdict),
        _ => &[],
    })
}

/// Where a constant map leads.
fn numbered(set: &Set) -> &[Verdict] {
    if let SetKind::Numbered(verdicts) = &set.kind { verdicts } else { &[] }
}

fn chain_of(verdict: &Verdict) -> Option<&String> {
    match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
        Verdict::Drop | Verdict::Return => None,
    }
}

fn sets_of(rule: &Rule) -> impl Iterator<Item = &String> {
    rule.0.iter().filter_map(|expression| match expression {
        Expression::InSet { set, .. } | Expression::UpdateSet { set, .. } => Some(set),
        Expression::VerdictMap { map, .. } => Some(map),
        _ => None,
    })
}

impl Model {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            self.step(change);
            assert!(self.elements.keys().all(|(set, _)| self.sets.contains_key(set)), "{change:?}");
        }
    }

    fn leads_somewhere(&self, verdict: &Verdict) {
        assert!(chain_of(verdict).is_none_or(|chain| self.chains.contains_key(chain)), "{verdict:?} leads nowhere");
    }

    fn step(&mut self, change: &Change) {
        match change {
            Change::AddTable | Change::DeleteTable => panic!("a sync leaves the table"),
            Change::AddChain { chain, .. } => drop(self.chains.entry(chain.clone()).or_default().len()),
            Change::FlushChain { chain } => self.chains.get_mut(chain).expect("a chain").clear(),
            Change::DeleteChain { chain } => {
                let to_it = |verdict: &Verdict| chain_of(verdict) == Some(chain);
                assert!(!self.chains.values().flatten().flat_map(verdicts).any(to_it), "{chain} is in use");
                assert!(!self.elements.values().flatten().any(to_it), "{chain} is in use");
                assert!(!self.sets.values().flat_map(numbered).any(to_it), "{chain} is in use");
                self.chains.remove(chain).expect("a chain");
            }
            Change::AddRule { chain, rule } => {
                verdicts(rule).for_each(|verdict| self.leads_somewhere(verdict));
                assert!(sets_of(rule).all(|set| self.sets.contains_key(set)), "{rule:?}");
                self.chains.get_mut(chain).expect("a chain").push(rule.clone());
            }
            Change::AddSet { name, set } => {
                numbered(set).iter().for_each(|verdict| self.leads_somewhere(verdict));
                assert_eq!(self.sets.insert(name.clone(), set.clone()), None, "set {name} twice");
            }
            Change::DeleteSet { name } => {
                assert!(!self.chains.values().flatten().flat_map(sets_of).any(|set| set == name), "{name} is in use");
                self.sets.remove(name).expect("a set");
            }
            Change::AddElements { set, elements } => {
                for (key, verdict) in elements {
                    verdict.iter().for_each(|verdict| self.leads_somewhere(verdict));
                    assert_eq!(self.sets[set].kind == SetKind::VerdictMap, verdict.is_some());
                    assert_eq!(self.elements.insert((set.clone(), key.clone()), verdict.clone()), None, "an element of {set} twice");
                }
            }
            Change::DeleteElements { set, keys } => {
                for key in keys {
                    self.elements.remove(&(set.clone(), key.clone())).expect("an element");
                }
            }
        }
    }

    /// Every address to which a packet may be translated from this verdict on.
    fn endpoints(&self, verdict: &Verdict) -> BTreeSet<SocketAddrV4> {
        let Some(rules) = chain_of(verdict).map(|chain| &self.chains[chain]) else { return BTreeSet::new() };
        let mut found = BTreeSet::new();
        for rule in rules {
            let maps = sets_of(rule).flat_map(|set| numbered(&self.sets[set]));
            verdicts(rule).chain(maps).for_each(|verdict| found.extend(self.endpoints(verdict)));
            if let [Expression::Load { bytes: ip, .. }, Expression::Load { bytes: port, .. }, Expression::DestinationNat { .. }] =
                rule.0.as_slice()
            {
                let ip = Ipv4Addr::from(<[u8; 4]>::try_from(ip.as_slice()).expect("an address"));
                found.insert(SocketAddrV4::new(ip, u16::from_be_bytes([port[0], port[1]])));
            }
        }
        found
    }

    fn element(&self, set: &str, key: Key) -> Option<&Verdict> {
        self.elements.get(&(set.to_owned(), key))?.as_ref()
    }
}

fn service_key(ip: Ipv4Addr, protocol: u8, port: u16) -> Key {
    [ip.octets().as_slice(), &[protocol, 0, 0, 0], &port.to_be_bytes(), &[0, 0]].concat()
}

fn port_key(protocol: u8, port: u16) -> Key {
    [[protocol, 0, 0, 0].as_slice(), &port.to_be_bytes(), &[0, 0]].concat()
}

/// Asks the model about one service port.
fn check(model: &Model, name: &PortName, port: &ServicePort) {
    let protocol = name.protocol.number();
    let set = |endpoints: &[SocketAddrV4]| endpoints.iter().copied().collect::<BTreeSet<_>>();
    let refusal = if port.has_endpoints { Verdict::Drop } else { Verdict::Goto(base::REJECT.into()) };
    let internal = if port.internal_local { set(&port.local) } else { set(&port.cluster) };
    let key = service_key(port.cluster_ip, protocol, port.port);
    let verdict = model.element(base::SERVICE_IPS, key.clone());
    assert_eq!(verdict.map(|v| model.endpoints(v)).unwrap_or_default(), internal);
    assert_eq!(model.element(base::NO_ENDPOINT_SERVICES, key), internal.is_empty().then_some(&refusal));
    assert!(model.elements.contains_key(&(base::CLUSTER_IPS.to_owned(), port.cluster_ip.octets().to_vec())));
    let external = if port.external_local { set(&port.local) } else { set(&port.cluster) };
    let everywhere: BTreeSet<_> = external.iter().chain(&port.cluster).copied().collect();
    let check = |verdict: Option<&Verdict>, refused: Option<&Verdict>| {
        assert_eq!(verdict.map(|v| model.endpoints(v)).unwrap_or_default(), everywhere);
        assert_eq!(refused, external.is_empty().then_some(&refusal));
    };
    for ip in port.external_ips.iter().chain(&port.load_balancer_ips) {
        let key = service_key(*ip, protocol, port.port);
        check(model.element(base::SERVICE_IPS, key.clone()), model.element(base::NO_ENDPOINT_SERVICES, key));
    }
    if let Some(node_port) = port.node_port {
        let key = port_key(protocol, node_port);
        check(model.element(base::SERVICE_NODE_PORTS, key.clone()), model.element(base::NO_ENDPOINT_NODE_PORTS, key));
    }
}

prop_compose! {
    fn endpoints()(bytes in proptest::collection::btree_set(2u8..9, 0..4)) -> Vec<SocketAddrV4> {
        bytes.into_iter().map(|byte| SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, byte), 8080)).collect()
    }
}

prop_compose! {
    fn one_service(index: u8)(
        cluster in endpoints(), local in endpoints(), udp in any::<bool>(), node_port in any::<bool>(), external in any::<bool>(),
        balanced in any::<bool>(), internal_local in any::<bool>(), external_local in any::<bool>(), affinity in 0u32..3,
        other_ip in any::<bool>(),
    ) -> (PortName, ServicePort) {
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        let name = PortName { namespace: "ns".into(), service: format!("s{}", index / 2), port: format!("p{index}"), protocol };
        let ip = |a: u8, b: u8| Ipv4Addr::new(192, 0, a, b);
        let mut port = ServicePort {
            // Two ports of one Service share its address.
            cluster_ip: Ipv4Addr::new(10, 96, u8::from(other_ip), index / 2),
            port: 80 + u16::from(index),
            node_port: node_port.then_some(30000 + u16::from(index)),
            external_ips: if external { vec![ip(1, index)] } else { Vec::new() },
            load_balancer_ips: if balanced { vec![ip(2, index)] } else { Vec::new() },
            source_ranges: if balanced { vec!["10.0.0.0/8".parse().expect("a range")] } else { Vec::new() },
            affinity_seconds: (affinity > 0).then_some(affinity),
            internal_local, external_local, cluster: Vec::new(), local: Vec::new(), has_endpoints: false,
        };
        // What `state` would choose: the local endpoints are among all, and a list that no policy asks for is empty.
        let all: BTreeSet<_> = cluster.into_iter().chain(local.iter().copied()).collect();
        port.has_endpoints = !all.is_empty();
        if port.uses_cluster() {
            port.cluster = all.into_iter().collect();
        }
        if port.uses_local() {
            port.local = local;
        }
        (name, port)
    }
}

fn maybe_service(index: u8) -> impl Strategy<Value = Option<(PortName, ServicePort)>> {
    proptest::option::of(one_service(index))
}

prop_compose! {
    fn state()(
        services in (maybe_service(0), maybe_service(1), maybe_service(2), maybe_service(3)),
        host_ports in proptest::collection::btree_set((4000u16..4003, 2u8..6, any::<bool>()), 0..3),
    ) -> ProxyState {
        let (a, b, c, d) = services;
        let host_port = |(port, byte, everywhere): (u16, u8, bool)| HostPort {
            protocol: Protocol::Tcp,
            host_ip: (!everywhere).then(|| Ipv4Addr::new(10, 250, 0, 1)),
            port,
            to: SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, byte), 80),
        };
        let mut taken = BTreeSet::new();
        let host_ports = host_ports.into_iter().map(host_port).filter(|p| taken.insert((p.host_ip, p.port))).collect();
        ProxyState { services: [a, b, c, d].into_iter().flatten().collect(), host_ports }
    }
}

fn fresh() -> Model {
    let mut model = Model::default();
    model.apply(&base::rules(&options()));
    model
}

proptest! {
    /// A difference applied to what an old state left is what the new state alone would be, and leads where it should.
    #[test]
    fn differences_add_up(states in proptest::collection::vec(state(), 1..6)) {
        let (mut model, mut old) = (fresh(), ProxyState::default());
        let mut stale = BTreeSet::new();
        for new in states {
            let difference = difference::between(&old, &new, &options());
            model.apply(&difference.changes);
            stale.retain(|chain| !difference.added.contains(chain));
            stale.extend(difference.emptied);
            let mut settled = model.clone();
            settled.apply(&stale.iter().map(|chain: &String| Change::DeleteChain { chain: chain.clone() }).collect::<Vec<_>>());
            let mut direct = fresh();
            direct.apply(&difference::between(&ProxyState::default(), &new, &options()).changes);
            prop_assert_eq!(&settled, &direct);
            for (name, port) in &new.services {
                check(&model, name, port);
            }
            for port in &new.host_ports {
                let verdict = match port.host_ip {
                    Some(ip) => model.element(base::SERVICE_IPS, service_key(ip, port.protocol.number(), port.port)),
                    None => model.element(base::HOST_PORTS, port_key(port.protocol.number(), port.port)),
                };
                prop_assert_eq!(model.endpoints(verdict.expect("an element")), BTreeSet::from([port.to]));
            }
            prop_assert!(difference::between(&new, &new, &options()).changes.is_empty());
            old = new;
        }
    }
}

/// What a change of one endpoint touches, as a transcript.
#[test]
fn one_endpoint_more_touches_only_its_service() {
    let at = |byte| SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, byte), 8080);
    let port = |index: u8, endpoints: &[SocketAddrV4]| ServicePort {
        cluster_ip: Ipv4Addr::new(10, 96, 0, index),
        port: 80,
        node_port: None,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        affinity_seconds: None,
        internal_local: false,
        external_local: false,
        cluster: endpoints.to_vec(),
        local: Vec::new(),
        has_endpoints: true,
    };
    let name = |index| PortName { namespace: "ns".into(), service: format!("s{index}"), port: String::new(), protocol: Protocol::Tcp };
    let state = |endpoints: &[SocketAddrV4]| ProxyState {
        services: [(name(1), port(1, endpoints)), (name(2), port(2, &[at(9)]))].into(),
        host_ports: BTreeSet::new(),
    };
    let changes = difference::between(&state(&[at(2)]), &state(&[at(2), at(3)]), &options()).changes;
    let short = |change: &Change| match change {
        Change::AddChain { chain, .. } => format!("chain {}", &chain[..8]),
        Change::FlushChain { chain } => format!("flush {}", &chain[..8]),
        Change::AddRule { chain, .. } => format!("rule {}", &chain[..8]),
        Change::AddSet { name, .. } => format!("set {}", &name[..8]),
        Change::DeleteSet { name } => format!("unset {}", &name[..8]),
        other => format!("{other:?}"),
    };
    let transcript: Vec<String> = changes.iter().map(short).collect();
    let expected = [
        "chain endpoint",
        "set numbers-",
        "flush service-",
        "rule endpoint",
        "rule endpoint",
        "rule service-",
        "rule service-",
        "unset numbers-",
    ];
    assert_eq!(transcript, expected);
}
