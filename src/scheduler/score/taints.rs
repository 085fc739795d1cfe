//! Taints PreferNoSchedule that a pod does not tolerate count against a node (TaintToleration).

use super::super::wanted::Wanted;
use super::{Candidate, normalize};
use crate::kinds::taints::tolerated;

pub fn score(wanted: &Wanted, candidates: &[Candidate]) -> Vec<i64> {
    let of = |(node, _): &Candidate| {
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
        let borne = |t: &k8s_openapi::api::core::v1::Taint| tolerated(wanted.tolerations(), t);
        i64::try_from(taints.iter().filter(|t| t.effect == "PreferNoSchedule" && !borne(t)).count()).unwrap_or(i64::MAX)
    };
    normalize(candidates.iter().map(of).collect(), true)
}
