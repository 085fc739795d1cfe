//! A cordoned node takes only pods that bear it.

use super::super::{cluster::NodeState, wanted::Wanted};
use super::Refusal;
use crate::kinds::{Node, Ref, taints::tolerated};
use k8s_openapi::api::core::v1::Taint;

pub fn filter(wanted: &Wanted, node: &Ref<Node>, _: &NodeState) -> Result<(), Refusal> {
    let cordoned = node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
    if !cordoned {
        return Ok(());
    }
    let taint = Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
    if tolerated(wanted.tolerations(), &taint) { Ok(()) } else { Err(Refusal::for_good("node(s) were unschedulable")) }
}
