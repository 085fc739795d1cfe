//! Which nodes may take a pod. One filter per file, in kube-scheduler's order; the first that refuses is the reason.

pub mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources;
mod node_unschedulable;
mod taints;

use super::cluster::NodeState;
use super::wanted::Wanted;
use crate::kinds::{Node, Ref};
use std::borrow::Cow;

/// Why a node does not take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// As `0/1 nodes are available: 1 <reason>` names them.
    pub reasons: Vec<Cow<'static, str>>,
    /// True if the node could take the pod were others not there.
    pub resolvable: bool,
}

impl Refusal {
    fn for_good(reason: &'static str) -> Self {
        Self { reasons: vec![reason.into()], resolvable: false }
    }
}

type Filter = fn(&Wanted, &Ref<Node>, &NodeState) -> Result<(), Refusal>;

const FILTERS: [Filter; 6] =
    [node_unschedulable::filter, node_name::filter, taints::filter, node_affinity::filter, node_ports::filter, node_resources::filter];

/// Asks every filter, until one refuses.
pub fn all(wanted: &Wanted, node: &Ref<Node>, state: &NodeState) -> Result<(), Refusal> {
    FILTERS.iter().try_for_each(|filter| filter(wanted, node, state))
}
