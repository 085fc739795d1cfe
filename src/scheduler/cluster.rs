//! The nodes and what is placed on them, kept up to date event by event.

use super::resources::Resources;
use super::wanted::{HostPort, Wanted};
use crate::kinds::pod::state::{is_terminal, node_name};
use crate::kinds::{Node, Pod, Ref};
use crate::watch::{Change, Event, Snapshot};
use std::collections::{BTreeMap, HashMap};

/// A node, and the sum of what is placed on it. Without an object: pods are bound to it, but it is not (yet) there.
#[derive(Default)]
pub struct NodeState {
    pub object: Option<Ref<Node>>,
    pub allocatable: Resources,
    pub requested: Resources,
    /// Of all pods: cpu and memory as the scores count them.
    pub counted: (i64, i64),
    pub ports: Vec<HostPort>,
    /// How many pods each owner has here.
    pub owners: HashMap<String, usize>,
}

impl NodeState {
    fn place(&mut self, wanted: &Wanted, sign: i64) {
        self.requested.add(&wanted.requests, sign);
        self.counted.0 += sign * wanted.counted.0;
        self.counted.1 += sign * wanted.counted.1;
        for port in &wanted.ports {
            if sign > 0 {
                self.ports.push(port.clone());
            } else if let Some(i) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(i);
            }
        }
        let Some(owner) = &wanted.owner else { return };
        let count = self.owners.entry(owner.clone()).or_default();
        *count = if sign > 0 { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.owners.remove(owner);
        }
    }

    fn is_unused(&self) -> bool {
        self.object.is_none() && self.requested.pods == 0
    }
}

struct Placed {
    node: String,
    wanted: Wanted,
    /// Decided here, but the cluster does not show it yet.
    assumed: bool,
}

/// Every node and every placed pod.
#[derive(Default)]
pub struct Cluster {
    nodes: BTreeMap<String, NodeState>,
    /// By uid.
    placed: HashMap<String, Placed>,
}

impl Cluster {
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut cluster = Self::default();
        for node in snapshot.list::<Node>(None) {
            cluster.set_node(&node);
        }
        for pod in snapshot.list::<Pod>(None) {
            cluster.set_pod(&pod);
        }
        cluster
    }

    /// Nodes that exist, in name order.
    pub fn nodes(&self) -> impl Iterator<Item = (&Ref<Node>, &NodeState)> {
        self.nodes.values().filter_map(|n| Some((n.object.as_ref()?, n)))
    }

    /// Takes an event in. Returns true if it may let a pod be placed that could not be before.
    pub fn take(&mut self, event: &Event) -> bool {
        if let Some(node) = Ref::<Node>::new(event.object.clone()) {
            if event.change == Change::Deleted {
                self.remove_node(&node);
                return false;
            }
            let before = event.previous.as_ref().and_then(|o| o.get::<Node>());
            let helps = before.is_none_or(|b| matters(b) != matters(&node));
            self.set_node(&node);
            return helps;
        }
        let Some(pod) = Ref::<Pod>::new(event.object.clone()) else { return false };
        if event.change == Change::Deleted {
            return self.unplace(pod.object().uid());
        }
        // Under an old name a new pod: the old one is gone.
        let replaced = event.previous.as_ref().filter(|p| p.uid() != event.object.uid()).is_some_and(|p| self.unplace(p.uid()));
        self.set_pod(&pod) || replaced
    }

    fn set_node(&mut self, node: &Ref<Node>) {
        let state = self.nodes.entry(node.object().key().name).or_default();
        state.allocatable = Resources::of_node(node);
        state.object = Some(node.clone());
    }

    fn remove_node(&mut self, node: &Ref<Node>) {
        let name = node.object().key().name;
        if let Some(state) = self.nodes.get_mut(&name) {
            state.object = None;
            if state.is_unused() {
                self.nodes.remove(&name);
            }
        }
    }

    /// True if room came free.
    fn set_pod(&mut self, pod: &Ref<Pod>) -> bool {
        let (uid, node) = (pod.object().uid(), node_name(pod));
        if is_terminal(pod) {
            return self.unplace(uid);
        }
        if node.is_empty() {
            // Assumed pods look so until their binding is seen.
            return false;
        }
        let wanted = Wanted::new(pod.clone());
        let shrunk = self.placed.get(uid).is_some_and(|p| !p.assumed && p.wanted.requests != wanted.requests);
        self.unplace(uid);
        self.place(wanted, node.to_owned(), false);
        shrunk
    }

    /// Counts a pod as placed before its binding is seen.
    pub fn assume(&mut self, wanted: Wanted, node: &str) {
        self.unplace(wanted.uid());
        self.place(wanted, node.to_owned(), true);
    }

    /// Takes an assumption back.
    pub fn forget(&mut self, uid: &str) {
        if self.placed.get(uid).is_some_and(|p| p.assumed) {
            self.unplace(uid);
        }
    }

    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    /// Pods whose binding has not been seen, with their nodes.
    pub fn assumed(&self) -> Vec<(Wanted, String)> {
        self.placed.values().filter(|p| p.assumed).map(|p| (p.wanted.clone(), p.node.clone())).collect()
    }

    fn place(&mut self, wanted: Wanted, node: String, assumed: bool) {
        self.nodes.entry(node.clone()).or_default().place(&wanted, 1);
        self.placed.insert(wanted.uid().to_owned(), Placed { node, wanted, assumed });
    }

    fn unplace(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else { return false };
        if let Some(state) = self.nodes.get_mut(&placed.node) {
            state.place(&placed.wanted, -1);
            if state.is_unused() {
                self.nodes.remove(&placed.node);
            }
        }
        true
    }
}

/// What of a node decides whether pods may go there.
type Matters<'a> = (Resources, Option<&'a BTreeMap<String, String>>, Option<&'a Vec<k8s_openapi::api::core::v1::Taint>>, Option<bool>);

fn matters(node: &k8s_openapi::api::core::v1::Node) -> Matters<'_> {
    let spec = node.spec.as_ref();
    (Resources::of_node(node), node.metadata.labels.as_ref(), spec.and_then(|s| s.taints.as_ref()), spec.and_then(|s| s.unschedulable))
}
