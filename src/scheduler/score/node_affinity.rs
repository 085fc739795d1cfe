//! Preferred node affinity: the sum of the weights of the terms that a node meets.

use super::super::filter::node_affinity::term_matches;
use super::super::wanted::Wanted;
use super::{Candidate, normalize};

pub fn score(wanted: &Wanted, candidates: &[Candidate]) -> Vec<i64> {
    let affinity = wanted.spec().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
    let Some(preferred) = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()) else {
        return vec![0; candidates.len()];
    };
    let of = |(node, _): &Candidate| {
        let met = preferred.iter().filter(|t| term_matches(&t.preference, node));
        met.map(|t| i64::from(t.weight)).sum()
    };
    normalize(candidates.iter().map(of).collect(), false)
}
