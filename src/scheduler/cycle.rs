//! One pod, one decision: the best node that may take it, or why there is none.

use super::cluster::Cluster;
use super::filter::{self, Refusal};
use super::score;
use super::wanted::Wanted;
use std::collections::BTreeMap;

/// The node for a pod.
///
/// # Errors
/// The message that kube-scheduler gives.
pub fn schedule(cluster: &Cluster, wanted: &Wanted) -> Result<String, String> {
    let mut candidates = Vec::new();
    let mut refusals = Vec::new();
    for (node, state) in cluster.nodes() {
        match filter::all(wanted, node, state) {
            Ok(()) => candidates.push((node, state)),
            Err(refusal) => refusals.push(refusal),
        }
    }
    match score::best(wanted, &candidates) {
        Some(i) => Ok(candidates[i].0.metadata.name.clone().unwrap_or_default()),
        None => Err(message(&refusals)),
    }
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable. …`
fn message(refusals: &[Refusal]) -> String {
    if refusals.is_empty() {
        return "no nodes available to schedule pods".into();
    }
    let all = refusals.len();
    let reasons = histogram(refusals.iter().flat_map(|r| r.reasons.iter().map(AsRef::as_ref)));
    // Nobody is ever preempted, which kube-scheduler says in these words.
    let preemption =
        histogram(refusals.iter().map(|r| {
            if r.resolvable { "No preemption victims found for incoming pod" } else { "Preemption is not helpful for scheduling" }
        }));
    format!("0/{all} nodes are available: {reasons}. no new claims to deallocate, preemption: 0/{all} nodes are available: {preemption}.")
}

fn histogram<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut texts: Vec<String> = counts.into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    texts.sort();
    texts.join(", ")
}
