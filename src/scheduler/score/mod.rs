//! Which of the nodes that may take a pod is best. One score per file, each from 0 to 100, weighed as kube-scheduler does.

mod balanced;
mod least_allocated;
mod node_affinity;
mod spread;
mod taints;

use super::cluster::NodeState;
use super::wanted::Wanted;
use crate::kinds::{Node, Ref};

pub const MAX: i64 = 100;

/// A node that passed the filters.
pub type Candidate<'a> = (&'a Ref<Node>, &'a NodeState);

/// One number per candidate.
type Score = fn(&Wanted, &[Candidate]) -> Vec<i64>;

/// Each with its weight.
const SCORES: [(Score, i64); 5] =
    [(least_allocated::score, 1), (balanced::score, 1), (taints::score, 3), (node_affinity::score, 2), (spread::score, 2)];

/// The number of the best candidate; of equals the first.
pub fn best(wanted: &Wanted, candidates: &[Candidate]) -> Option<usize> {
    if candidates.len() <= 1 {
        return candidates.len().checked_sub(1);
    }
    let mut sums = vec![0; candidates.len()];
    for (score, weight) in SCORES {
        for (sum, points) in sums.iter_mut().zip(score(wanted, candidates)) {
            *sum += points * weight;
        }
    }
    let most = sums.iter().max()?;
    sums.iter().position(|s| s == most)
}

/// Stretches raw numbers over 0 to 100; `reverse`: the lowest gets 100.
fn normalize(mut raw: Vec<i64>, reverse: bool) -> Vec<i64> {
    let most = raw.iter().copied().max().unwrap_or(0);
    for n in &mut raw {
        *n = match (most, reverse) {
            (0, true) => MAX,
            (0, false) => 0,
            (_, true) => MAX - *n * MAX / most,
            (_, false) => *n * MAX / most,
        };
    }
    raw
}

#[cfg(test)]
mod tests {
    use super::normalize;

    #[test]
    fn raw_scores_are_stretched_over_the_scale() {
        assert_eq!(normalize(vec![0, 5, 10], false), [0, 50, 100]);
        assert_eq!(normalize(vec![0, 5, 10], true), [100, 50, 0]);
        assert_eq!(normalize(vec![0, 0], true), [100, 100]);
        assert_eq!(normalize(vec![0, 0], false), [0, 0]);
    }
}
