//! Two pods cannot hold one port of a node.

use super::super::{cluster::NodeState, wanted::Wanted};
use super::Refusal;
use crate::kinds::{Node, Ref};

pub fn filter(wanted: &Wanted, _: &Ref<Node>, state: &NodeState) -> Result<(), Refusal> {
    let taken = |port: &super::super::wanted::HostPort| state.ports.iter().any(|p| p.conflicts(port));
    if wanted.ports.iter().any(taken) {
        let reason = "node(s) didn't have free ports for the requested pod ports".into();
        return Err(Refusal { reasons: vec![reason], resolvable: true });
    }
    Ok(())
}
