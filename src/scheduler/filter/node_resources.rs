//! What a pod asks for must be left on the node.

use super::super::{cluster::NodeState, wanted::Wanted};
use super::Refusal;
use crate::kinds::{Node, Ref};
use std::borrow::Cow;

pub fn filter(wanted: &Wanted, _: &Ref<Node>, state: &NodeState) -> Result<(), Refusal> {
    let (asked, has, used) = (&wanted.requests, &state.allocatable, &state.requested);
    let mut refusal = Refusal { reasons: Vec::new(), resolvable: true };
    if used.pods + 1 > has.pods {
        refusal.reasons.push("Too many pods".into());
    }
    let mut check = |reason: Cow<'static, str>, asked: i64, has: i64, used: i64| {
        if asked > 0 && asked > has - used {
            refusal.reasons.push(reason);
            refusal.resolvable &= asked <= has;
        }
    };
    check("Insufficient cpu".into(), asked.milli_cpu, has.milli_cpu, used.milli_cpu);
    check("Insufficient memory".into(), asked.memory, has.memory, used.memory);
    check("Insufficient ephemeral-storage".into(), asked.ephemeral_storage, has.ephemeral_storage, used.ephemeral_storage);
    for (name, &n) in &asked.other {
        let of = |r: &super::super::resources::Resources| r.other.get(name).copied().unwrap_or(0);
        if n > 0 {
            check(format!("Insufficient {name}").into(), n, of(has), of(used));
        }
    }
    if refusal.reasons.is_empty() { Ok(()) } else { Err(refusal) }
}
