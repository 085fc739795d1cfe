//! The emptier a node will be, the better (NodeResourcesFit, LeastAllocated).

use super::super::wanted::Wanted;
use super::{Candidate, MAX};

pub fn score(wanted: &Wanted, candidates: &[Candidate]) -> Vec<i64> {
    let free = |used: i64, has: i64| if has <= 0 || used > has { 0 } else { (has - used) * MAX / has };
    let of = |(_, state): &Candidate| {
        let cpu = free(state.counted.0 + wanted.counted.0, state.allocatable.milli_cpu);
        let memory = free(state.counted.1 + wanted.counted.1, state.allocatable.memory);
        (cpu + memory) / 2
    };
    candidates.iter().map(of).collect()
}
