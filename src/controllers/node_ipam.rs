//! Node IPAM: every node gets a range of the cluster's pod addresses for itself, which is nobody else's while the node's
//! object exists. Follows pkg/controller/nodeipam (range allocator).
//!
//! All nodes are one key, so that no two of them are given ranges at once.

use super::plan::{Action, Controller, Key, Plan};
use crate::kinds::{Node, Ref};
use crate::watch::{Change, Event, Snapshot};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Cuts `cluster` (address and prefix) into ranges with the prefix `node_prefix`.
pub struct NodeIpam {
    pub cluster: (Ipv4Addr, u8),
    pub node_prefix: u8,
}

fn every_node() -> Key {
    Key::new::<Node>("", "")
}

/// The range that a node has, and that belongs to it as long as its object exists.
fn range_of(node: &Ref<Node>) -> Option<&str> {
    node.spec.as_ref()?.pod_cidr.as_deref()
}

impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn keys_for(&self, event: &Event, _: &Snapshot) -> Vec<Key> {
        // A deleted node's range may be what another one waits for.
        match Ref::<Node>::new(event.object.clone()) {
            Some(node) if event.change == Change::Deleted || range_of(&node).is_none() => vec![every_node()],
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, _: &Snapshot) -> Vec<Key> {
        vec![every_node()]
    }

    fn reconcile(&self, snapshot: &Snapshot, _: &Key, _: Timestamp) -> Plan {
        let nodes: Vec<Ref<Node>> = snapshot.list::<Node>(None).collect();
        let mut taken: BTreeSet<u32> = nodes.iter().filter_map(range_of).flat_map(|range| self.slots(range)).collect();
        let mut actions = Vec::new();
        for node in nodes.iter().filter(|node| range_of(node).is_none()) {
            // A node that waits for a range says so itself.
            let Some(slot) = self.free(&taken) else { break };
            taken.insert(slot);
            let range = self.range(slot);
            actions.push(Action::merge(node.object(), json!({"spec": {"podCIDR": range, "podCIDRs": [range]}})).at(node.object()));
        }
        Plan::step(actions)
    }
}

impl NodeIpam {
    fn count(&self) -> u32 {
        1 << self.node_prefix.saturating_sub(self.cluster.1).min(31)
    }

    /// Addresses of one range.
    fn size(&self) -> u32 {
        1 << (32 - u32::from(self.node_prefix))
    }

    fn base(&self) -> u32 {
        self.cluster.0.to_bits()
    }

    fn range(&self, slot: u32) -> String {
        format!("{}/{}", Ipv4Addr::from_bits(self.base() + slot * self.size()), self.node_prefix)
    }

    /// The slots that a range covers, even one of another size.
    fn slots(&self, range: &str) -> std::ops::RangeInclusive<u32> {
        let parsed = range.split_once('/').and_then(|(a, p)| Some((a.parse::<Ipv4Addr>().ok()?, p.parse::<u32>().ok()?)));
        let Some((address, prefix @ 0..=32)) = parsed else { return nothing() };
        let first = address.to_bits() & u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
        let last = first | u32::MAX.checked_shr(prefix).unwrap_or(0);
        let end = self.base() + (self.count() - 1) * self.size() + (self.size() - 1);
        if last < self.base() || first > end {
            return nothing();
        }
        (first.max(self.base()) - self.base()) / self.size()..=(last.min(end) - self.base()) / self.size()
    }

    /// The slot after the last one that is taken, so that the range of a node that has gone is given out again as late as
    /// possible; at the end of the space the first that is free.
    fn free(&self, taken: &BTreeSet<u32>) -> Option<u32> {
        let next = taken.last().map_or(0, |last| last + 1);
        if next < self.count() { Some(next) } else { (0..self.count()).find(|slot| !taken.contains(slot)) }
    }
}

#[allow(clippy::reversed_empty_ranges, reason = "an empty range is what is meant")]
fn nothing() -> std::ops::RangeInclusive<u32> {
    1..=0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::testing::{World, settle, undone};
    use std::sync::Arc;

    fn ipam(node_prefix: u8) -> NodeIpam {
        NodeIpam { cluster: (Ipv4Addr::new(10, 244, 0, 0), 16), node_prefix }
    }

    fn put(world: &World, name: &str, range: Option<&str>) {
        let ranges: Vec<&str> = range.into_iter().collect();
        let spec = if let Some(range) = range { json!({"podCIDR": range, "podCIDRs": ranges}) } else { json!({}) };
        world.put::<Node>(json!({"metadata": {"name": name}, "spec": spec}));
    }

    fn ranges(world: &Arc<World>) -> Vec<String> {
        let spec = world.all::<Node>().into_iter().map(|n| n.spec.unwrap_or_default());
        spec.map(|s| s.pod_cidrs.map_or_else(|| "-".into(), |r| r.join("+"))).collect()
    }

    #[test]
    fn each_node_gets_a_range_of_its_own_and_keeps_it() {
        let world = World::new();
        for name in ["a", "b", "c"] {
            put(&world, name, None);
        }
        settle(&world, &ipam(23));
        assert_eq!(ranges(&world), ["10.244.0.0/23", "10.244.2.0/23", "10.244.4.0/23"]);
        put(&world, "d", None);
        settle(&world, &ipam(23));
        assert_eq!(ranges(&world)[3], "10.244.6.0/23");
        assert_eq!(undone(&world, &[&ipam(23)]), Vec::<String>::new());
    }

    #[test]
    fn what_a_node_has_already_is_not_given_to_another() {
        let world = World::new();
        put(&world, "a", Some("10.244.1.0/24"));
        put(&world, "b", Some("192.168.7.0/24"));
        put(&world, "c", None);
        put(&world, "d", Some("10.244.4.0/22"));
        put(&world, "e", None);
        settle(&world, &ipam(23));
        assert_eq!(ranges(&world)[2..], ["10.244.8.0/23", "10.244.4.0/22", "10.244.10.0/23"]);
    }

    #[test]
    fn a_space_that_is_full_gives_out_what_is_freed_and_nothing_twice() {
        let world = World::new();
        for name in ["a", "b", "c", "d", "e"] {
            put(&world, name, None);
        }
        settle(&world, &ipam(18));
        let given = ranges(&world);
        assert_eq!(given, ["10.244.0.0/18", "10.244.64.0/18", "10.244.128.0/18", "10.244.192.0/18", "-"]);
        world.take::<Node>("", "b");
        settle(&world, &ipam(18));
        assert_eq!(ranges(&world)[3], "10.244.64.0/18");
    }
}
