//! The more evenly cpu and memory will be used, the better (NodeResourcesBalancedAllocation).

use super::super::wanted::Wanted;
use super::{Candidate, MAX};

pub fn score(wanted: &Wanted, candidates: &[Candidate]) -> Vec<i64> {
    let asked = &wanted.requests;
    if asked.milli_cpu == 0 && asked.memory == 0 {
        return vec![0; candidates.len()];
    }
    // Millionths of the node.
    let share = |used: i64, has: i64| if has <= 0 { 1_000_000 } else { (i128::from(used) * 1_000_000 / i128::from(has)).min(1_000_000) };
    let of = |(_, state): &Candidate| {
        let cpu = share(state.requested.milli_cpu + asked.milli_cpu, state.allocatable.milli_cpu);
        let memory = share(state.requested.memory + asked.memory, state.allocatable.memory);
        // Of two shares the standard deviation is half their distance.
        MAX - i64::try_from((cpu - memory).abs() / 2 / 10_000).unwrap_or(MAX)
    };
    candidates.iter().map(of).collect()
}
