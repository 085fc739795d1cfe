//! Taints NoSchedule and NoExecute keep out pods that do not tolerate them.

use super::super::{cluster::NodeState, wanted::Wanted};
use super::Refusal;
use crate::kinds::{Node, Ref, taints::tolerated};

pub fn filter(wanted: &Wanted, node: &Ref<Node>, _: &NodeState) -> Result<(), Refusal> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let mut hard = taints.iter().filter(|t| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute"));
    if hard.all(|t| tolerated(wanted.tolerations(), t)) {
        return Ok(());
    }
    Err(Refusal::for_good("node(s) had untolerated taint(s)"))
}
