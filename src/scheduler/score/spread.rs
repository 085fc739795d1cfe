//! Pods of one owner spread over the nodes: the fewer a node has, the better (PodTopologySpread's default constraint).

use super::super::wanted::Wanted;
use super::{Candidate, normalize};

pub fn score(wanted: &Wanted, candidates: &[Candidate]) -> Vec<i64> {
    let Some(owner) = &wanted.owner else { return vec![0; candidates.len()] };
    let of = |(_, state): &Candidate| i64::try_from(state.owners.get(owner).copied().unwrap_or(0)).unwrap_or(i64::MAX);
    normalize(candidates.iter().map(of).collect(), true)
}
