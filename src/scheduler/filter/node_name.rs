//! A pod that names its node goes there or nowhere.

use super::super::{cluster::NodeState, wanted::Wanted};
use super::Refusal;
use crate::kinds::{Node, Ref};

pub fn filter(wanted: &Wanted, node: &Ref<Node>, _: &NodeState) -> Result<(), Refusal> {
    let named = wanted.spec().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty());
    if named.is_none_or(|n| Some(n) == node.metadata.name.as_deref()) {
        return Ok(());
    }
    Err(Refusal::for_good("node(s) didn't match the requested node name"))
}
