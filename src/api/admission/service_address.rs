//! Service addresses and node ports: given on create and update, each to one Service.
//!
//! What is taken is read from the Services themselves, so there is no record that could disagree with them. Within a
//! process an allocation holds a lock until it is written; between masters the same transaction writes the claim key,
//! which must not have been written since the snapshot that the allocation was made from.

use crate::kinds::Service;
use crate::meta::{FieldErrors, FieldPath, Status};
use crate::watch::Snapshot;
use k8s_openapi::api::core::v1 as core;
use orchd_store::{Compare, CompareResult, CompareTarget, KeyRange, Op};
use rand::Rng;
use serde_json::json;
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use tokio::sync::MutexGuard;

/// Written with every allocation.
const CLAIM: &str = "/orchd/service-addresses";
const NONE: &str = "None";

/// The right to write what was allocated from a snapshot.
pub struct Allocation<'v> {
    _lock: MutexGuard<'v, ()>,
    revision: i64,
}

impl<'v> Allocation<'v> {
    pub fn new(lock: MutexGuard<'v, ()>, revision: i64) -> Self {
        Self { _lock: lock, revision }
    }

    /// Nobody has allocated since.
    pub fn unclaimed(&self) -> Compare {
        let target = CompareTarget::ModRevision(self.revision + 1);
        Compare { range: KeyRange::key(CLAIM), target, result: CompareResult::Less }
    }

    pub fn claim(&self) -> Op {
        Op::put(CLAIM, "")
    }
}

/// What may be given out.
#[derive(Clone, Debug)]
pub struct Pool {
    first: u32,
    last: u32,
    ports: RangeInclusive<u16>,
}

impl Pool {
    /// The hosts of a network: neither its own address nor broadcast.
    pub fn new(cidr: &(Ipv4Addr, u8), ports: RangeInclusive<u16>) -> Self {
        let bits = 32 - u32::from(cidr.1.min(30));
        let base = u32::from(cidr.0) & (u32::MAX << bits);
        Self { first: base + 1, last: base + (1 << bits) - 2, ports }
    }

    fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&u32::from(address))
    }

    /// A free address: not the first, which is `default/kubernetes`'s, and first from the upper part of the range (the
    /// lower sixteenth, at most 256, is left to those who ask for one, as Kubernetes does).
    fn free(&self, used: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let size = self.last - self.first + 1;
        let offset = (size / 16).clamp(1, 256).min(size - 1);
        let upper = self.first + offset..=self.last;
        pick(upper, used).or_else(|| pick(self.first + 1..=self.first + offset, used))
    }

    fn free_port(&self, used: &HashSet<i32>) -> Option<i32> {
        let (low, high) = (i32::from(*self.ports.start()), i32::from(*self.ports.end()));
        let start = rand::rng().random_range(low..=high);
        (start..=high).chain(low..start).find(|port| !used.contains(port))
    }
}

fn pick(range: RangeInclusive<u32>, used: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    if range.is_empty() {
        return None;
    }
    let start = rand::rng().random_range(range.clone());
    (start..=*range.end()).chain(*range.start()..start).map(Ipv4Addr::from).find(|address| !used.contains(address))
}

/// What other Services hold.
#[derive(Clone, Debug, Default)]
pub struct Used {
    pub addresses: HashSet<Ipv4Addr>,
    pub ports: HashSet<i32>,
}

/// What the Services of a snapshot hold, without `own`.
pub fn used(snapshot: &Snapshot, own: &core::Service) -> Used {
    let mut used = Used::default();
    for service in snapshot.list::<Service>(None) {
        if service.metadata.name == own.metadata.name && service.metadata.namespace == own.metadata.namespace {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        used.addresses.extend(spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok()));
        used.ports.extend(spec.ports.iter().flatten().filter_map(|p| p.node_port).filter(|p| *p != 0));
        used.ports.extend(spec.health_check_node_port.filter(|p| *p != 0));
    }
    used
}

/// Gives `service` its addresses and ports. `old` is what it is updated from. Returns what is wrong with those it asks for.
///
/// # Errors
/// Nothing is left to give.
pub fn assign(service: &mut core::Service, old: Option<&core::Service>, pool: &Pool, mut used: Used) -> Result<FieldErrors, Status> {
    let mut errors = FieldErrors::default();
    let spec = service.spec.get_or_insert_default();
    keep(spec, old.and_then(|o| o.spec.as_ref()));
    if kind(spec) == "ExternalName" {
        return Ok(errors);
    }
    families(spec);
    assign_address(spec, pool, &used, &mut errors)?;
    let old_spec = old.and_then(|o| o.spec.as_ref());
    if has_node_ports(spec) {
        assign_ports(spec, pool, &mut used, &mut errors)?;
    } else if old_spec.is_some_and(has_node_ports) {
        release_ports(spec, old_spec);
    }
    assign_health_port(spec, pool, &mut used, &mut errors)?;
    Ok(errors)
}

fn kind(spec: &core::ServiceSpec) -> &str {
    spec.type_.as_deref().filter(|t| !t.is_empty()).unwrap_or("ClusterIP")
}

fn has_node_ports(spec: &core::ServiceSpec) -> bool {
    matches!(kind(spec), "NodePort" | "LoadBalancer")
}

fn is_headless(spec: &core::ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some(NONE)
}

/// What an update leaves out stays as it was, where the type still has a use for it.
fn keep(spec: &mut core::ServiceSpec, old: Option<&core::ServiceSpec>) {
    if kind(spec) == "ExternalName" {
        let held = old.is_some_and(|o| kind(o) != "ExternalName" && o.cluster_ip == spec.cluster_ip);
        if held {
            spec.cluster_ip = None;
            spec.cluster_ips = None;
            spec.ip_families = None;
            spec.ip_family_policy = None;
        }
        return;
    }
    // The two forms of the address are one: whoever sets one alone means both.
    let single = spec.cluster_ip.clone().filter(|ip| !ip.is_empty());
    let first = spec.cluster_ips.as_ref().and_then(|ips| ips.first().cloned());
    spec.cluster_ip = single.or_else(|| first.filter(|_| spec.cluster_ip.is_none()));
    let Some(old) = old.filter(|o| kind(o) != "ExternalName") else { return };
    if spec.cluster_ip.is_none() {
        spec.cluster_ip.clone_from(&old.cluster_ip);
        spec.cluster_ips.clone_from(&old.cluster_ips);
    }
    if spec.ip_families.is_none() {
        spec.ip_families.clone_from(&old.ip_families);
    }
    if spec.ip_family_policy.is_none() {
        spec.ip_family_policy.clone_from(&old.ip_family_policy);
    }
    if has_node_ports(spec) && has_node_ports(old) {
        for port in spec.ports.iter_mut().flatten().filter(|p| p.node_port.unwrap_or(0) == 0) {
            let same = |o: &&core::ServicePort| o.port == port.port && o.protocol == port.protocol;
            port.node_port = old.ports.iter().flatten().find(same).and_then(|o| o.node_port);
        }
    }
    if spec.health_check_node_port.unwrap_or(0) == 0 {
        spec.health_check_node_port = old.health_check_node_port;
    }
}

fn families(spec: &mut core::ServiceSpec) {
    let selectorless = spec.selector.as_ref().is_none_or(|s| s.is_empty());
    let open = is_headless(spec) && selectorless;
    let policy = spec.ip_family_policy.get_or_insert_with(|| if open { "RequireDualStack" } else { "SingleStack" }.to_owned());
    let both = open && policy != "SingleStack";
    let own = spec.ip_families.get_or_insert_default();
    if own.is_empty() {
        own.push("IPv4".into());
    }
    if both && own.len() == 1 {
        own.push(if own[0] == "IPv4" { "IPv6" } else { "IPv4" }.into());
    }
}

fn assign_address(spec: &mut core::ServiceSpec, pool: &Pool, used: &Used, errors: &mut FieldErrors) -> Result<(), Status> {
    let path = FieldPath::new("spec").child("clusterIPs");
    match spec.cluster_ip.as_deref() {
        Some(NONE) => {}
        Some(text) => {
            let asked = json!([text]);
            match text.parse::<Ipv4Addr>() {
                Err(_) => errors.invalid(&path.index(0), text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
                Ok(ip) if !pool.contains(ip) => {
                    let range = format!("{}-{}", Ipv4Addr::from(pool.first), Ipv4Addr::from(pool.last));
                    let why = format!(
                        "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"
                    );
                    errors.invalid(&path, asked, why);
                }
                Ok(ip) if used.addresses.contains(&ip) => {
                    errors.invalid(&path, asked, format!("failed to allocate IP {ip}: provided IP is already allocated"));
                }
                Ok(_) => {}
            }
        }
        None => {
            let free = pool.free(&used.addresses).ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
            spec.cluster_ip = Some(free.to_string());
        }
    }
    spec.cluster_ips = spec.cluster_ip.clone().map(|ip| vec![ip]);
    Ok(())
}

fn full() -> Status {
    Status::internal("failed to allocate a nodePort: range is full")
}

fn assign_ports(spec: &mut core::ServiceSpec, pool: &Pool, used: &mut Used, errors: &mut FieldErrors) -> Result<(), Status> {
    let allocates = kind(spec) != "LoadBalancer" || spec.allocate_load_balancer_node_ports != Some(false);
    let ports = spec.ports.get_or_insert_default();
    // One node port may serve the same service port over several protocols.
    let mut own: Vec<(i32, i32, String)> = Vec::new();
    let protocol = |p: &core::ServicePort| p.protocol.clone().unwrap_or_else(|| "TCP".into());
    for (at, port) in ports.iter().enumerate() {
        let Some(asked) = port.node_port.filter(|p| *p != 0) else { continue };
        let path = FieldPath::new("spec").child("ports").index(at).child("nodePort");
        let (low, high) = (pool.ports.start(), pool.ports.end());
        if !(i32::from(*low)..=i32::from(*high)).contains(&asked) {
            errors.invalid(&path, asked, format!("provided port is not in the valid range. The range of valid ports is {low}-{high}"));
        } else if used.ports.contains(&asked) || own.iter().any(|(p, _, proto)| *p == asked && *proto == protocol(port)) {
            errors.invalid(&path, asked, "provided port is already allocated");
        }
        own.push((asked, port.port, protocol(port)));
    }
    used.ports.extend(own.iter().map(|(p, _, _)| *p));
    for port in ports.iter_mut().filter(|p| p.node_port.unwrap_or(0) == 0 && allocates) {
        let proto = protocol(port);
        let shared = own.iter().find(|(_, service, _)| *service == port.port).map(|(node, _, _)| *node);
        let shared = shared.filter(|node| !own.iter().any(|(p, _, o)| p == node && *o == proto));
        let given = match shared {
            Some(node) => node,
            None => pool.free_port(&used.ports).ok_or_else(full)?,
        };
        used.ports.insert(given);
        own.push((given, port.port, proto));
        port.node_port = Some(given);
    }
    Ok(())
}

/// A Service that gives up node ports loses those that it had, but keeps none that the update sets anew (which
/// validation refuses).
fn release_ports(spec: &mut core::ServiceSpec, old: Option<&core::ServiceSpec>) {
    let had: HashSet<i32> = old.into_iter().flat_map(|o| o.ports.iter().flatten()).filter_map(|p| p.node_port).collect();
    for port in spec.ports.iter_mut().flatten() {
        port.node_port = port.node_port.filter(|p| *p != 0 && !had.contains(p));
    }
}

fn assign_health_port(spec: &mut core::ServiceSpec, pool: &Pool, used: &mut Used, errors: &mut FieldErrors) -> Result<(), Status> {
    let needed = kind(spec) == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local");
    match spec.health_check_node_port.filter(|p| *p != 0) {
        _ if !needed => spec.health_check_node_port = None,
        Some(asked) if used.ports.contains(&asked) => {
            let path = FieldPath::new("spec").child("healthCheckNodePort");
            errors.invalid(
                &path,
                asked,
                format!("failed to allocate requested HealthCheck NodePort {asked}: provided port is already allocated"),
            );
        }
        Some(_) => {}
        None => spec.health_check_node_port = Some(pool.free_port(&used.ports).ok_or_else(full)?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool() -> Pool {
        Pool::new(&(Ipv4Addr::new(10, 96, 0, 0), 28), 30_000..=30_003)
    }

    fn service(json: serde_json::Value) -> core::Service {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "ns"}, "spec": json})).unwrap()
    }

    fn spec(service: &core::Service) -> core::ServiceSpec {
        service.spec.clone().unwrap()
    }

    #[test]
    fn an_address_is_given_and_kept() {
        let mut new = service(json!({"ports": [{"port": 80}]}));
        assert!(assign(&mut new, None, &pool(), Used::default()).unwrap().is_empty());
        let given = spec(&new);
        assert!(given.cluster_ip.is_some() && given.cluster_ips == given.cluster_ip.clone().map(|ip| vec![ip]));
        assert_eq!((given.ip_families, given.ip_family_policy.as_deref()), (Some(vec!["IPv4".into()]), Some("SingleStack")));
        let mut update = service(json!({"ports": [{"port": 81}], "type": "NodePort"}));
        assign(&mut update, Some(&new), &pool(), Used::default()).unwrap();
        let updated = spec(&update);
        assert_eq!(updated.cluster_ip, given.cluster_ip);
        assert!(updated.ports.unwrap()[0].node_port.is_some());
        let mut back = service(json!({"type": "ClusterIP", "ports": spec(&update).ports}));
        assign(&mut back, Some(&update), &pool(), Used::default()).unwrap();
        assert_eq!(spec(&back).ports.unwrap()[0].node_port, None);
    }

    #[test]
    fn headless_and_external_services_get_none() {
        let mut headless = service(json!({"clusterIP": "None", "selector": {"a": "b"}}));
        assign(&mut headless, None, &pool(), Used::default()).unwrap();
        assert_eq!(spec(&headless).cluster_ips, Some(vec!["None".into()]));
        let mut open = service(json!({"clusterIP": "None"}));
        assign(&mut open, None, &pool(), Used::default()).unwrap();
        assert_eq!(spec(&open).ip_families, Some(vec!["IPv4".into(), "IPv6".into()]));
        let mut external = service(json!({"type": "ExternalName", "externalName": "example.com"}));
        assign(&mut external, Some(&service(json!({"clusterIP": "10.96.0.9"}))), &pool(), Used::default()).unwrap();
        assert_eq!(spec(&external).cluster_ip, None);
    }

    #[test]
    fn what_is_taken_is_refused() {
        let used = || Used { addresses: [Ipv4Addr::new(10, 96, 0, 5)].into(), ports: [30_001].into() };
        let text = |json| {
            let errors = assign(&mut service(json), None, &pool(), used()).unwrap();
            errors.0.first().map(ToString::to_string).unwrap_or_default()
        };
        let taken = text(json!({"clusterIP": "10.96.0.5"}));
        assert_eq!(
            taken,
            "spec.clusterIPs: Invalid value: [\"10.96.0.5\"]: failed to allocate IP 10.96.0.5: provided IP is already allocated"
        );
        assert!(text(json!({"clusterIP": "10.97.0.5"})).contains("not in the valid range"));
        assert!(
            text(json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30_001}]})).contains("provided port is already allocated")
        );
        assert!(
            text(json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]})).contains("provided port is not in the valid range")
        );
    }

    #[test]
    fn one_node_port_serves_both_protocols() {
        let mut dns = service(
            json!({"type": "NodePort", "ports": [{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]}),
        );
        assign(&mut dns, None, &pool(), Used::default()).unwrap();
        let ports = spec(&dns).ports.unwrap();
        assert_eq!(ports[0].node_port, ports[1].node_port);
    }

    proptest! {
        /// Until the range is full every Service gets an address of its own, never the first; then it is refused.
        #[test]
        fn addresses_are_unique(count in 1usize..20) {
            let mut used = Used::default();
            for i in 0..count {
                let mut new = service(json!({}));
                match assign(&mut new, None, &pool(), used.clone()) {
                    Ok(errors) => {
                        prop_assert!(errors.is_empty());
                        let ip: Ipv4Addr = spec(&new).cluster_ip.unwrap().parse().unwrap();
                        prop_assert!(ip != Ipv4Addr::new(10, 96, 0, 1) && pool().contains(ip));
                        prop_assert!(used.addresses.insert(ip));
                    }
                    Err(_) => prop_assert!(i >= 13),
                }
            }
        }
    }
}
