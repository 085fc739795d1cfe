//! Sizes: surge and unavailability, what a new set may grow to, and scaling in proportion.

use super::history::{DESIRED_REPLICAS, MAX_REPLICAS};
use super::{Rollout, Set};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A number, or a percentage of `total` rounded up or down.
fn scaled(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or(0);
            let hundredfold = percent.saturating_mul(i64::from(total));
            i32::try_from(if up { (hundredfold + 99).div_euclid(100) } else { hundredfold.div_euclid(100) }).unwrap_or(i32::MAX)
        }
    }
}

/// maxSurge and maxUnavailable in pods; if both come to none, one may be unavailable, or nothing could ever move.
fn fenceposts(r: &Rollout) -> (i32, i32) {
    let rolling = r.spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let surge = scaled(rolling.and_then(|u| u.max_surge.as_ref()), r.replicas(), true);
    let unavailable = scaled(rolling.and_then(|u| u.max_unavailable.as_ref()), r.replicas(), false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

pub fn max_surge(r: &Rollout) -> i32 {
    if r.is_rolling_update() { fenceposts(r).0 } else { 0 }
}

pub fn max_unavailable(r: &Rollout) -> i32 {
    if r.is_rolling_update() && r.replicas() != 0 { fenceposts(r).1.min(r.replicas()) } else { 0 }
}

/// How many replicas the new set, which has `present` now, should have.
pub fn new_set_replicas(r: &Rollout, present: i32) -> i32 {
    if !r.is_rolling_update() {
        return r.replicas();
    }
    let room = r.replicas() + max_surge(r) - r.total_replicas();
    if room <= 0 { present } else { present + room.min(r.replicas() - present) }
}

fn number(set: &Set, annotation: &str) -> Option<i32> {
    set.annotation(annotation).and_then(|n| n.parse().ok()).filter(|&n: &i32| n >= 0)
}

impl Rollout<'_> {
    /// What all sets together want.
    pub fn total_replicas(&self) -> i32 {
        self.sets.iter().map(Set::replicas).sum()
    }

    /// Gives a set its size. Returns whether it changed.
    pub fn scale_set(&mut self, i: usize, replicas: i32) -> bool {
        let (desired, most) = (self.replicas(), self.replicas() + max_surge(self));
        let set = &mut self.sets[i];
        let changed = set.replicas() != replicas;
        set.set_replicas(replicas);
        set.annotate(DESIRED_REPLICAS, desired.to_string());
        set.annotate(MAX_REPLICAS, most.to_string());
        changed
    }

    /// As `scale_set`, but a set of the right size stays as it is.
    pub fn resize_set(&mut self, i: usize, replicas: i32) -> bool {
        self.sets[i].replicas() != replicas && self.scale_set(i, replicas)
    }

    /// True if the Deployment was scaled since its sets were.
    pub fn is_scaling_event(&self) -> bool {
        let active = self.sets.iter().filter(|s| s.replicas() > 0);
        active.filter_map(|s| number(s, DESIRED_REPLICAS)).any(|desired| desired != self.replicas())
    }

    /// Gives the sets their sizes without moving pods from one template to another.
    pub fn scale(&mut self) {
        let active: Vec<usize> = self.by_youth().into_iter().filter(|&i| self.sets[i].replicas() > 0).collect();
        match active.as_slice() {
            [] => {
                if let Some(i) = self.new.or_else(|| self.by_youth().first().copied()) {
                    self.resize_set(i, self.replicas());
                }
            }
            &[only] => {
                self.resize_set(only, self.replicas());
            }
            _ if self.is_saturated() => {
                for i in self.old_sets() {
                    if self.sets[i].replicas() > 0 {
                        self.resize_set(i, 0);
                    }
                }
            }
            _ if self.is_rolling_update() => self.scale_in_proportion(active),
            _ => {}
        }
    }

    /// Old sets from the youngest to the oldest, then the new one.
    fn by_youth(&self) -> Vec<usize> {
        let mut order: Vec<usize> = self.old_sets().collect();
        order.reverse();
        order.extend(self.new);
        order
    }

    fn is_saturated(&self) -> bool {
        let full = |s: &Set| {
            s.replicas() == self.replicas() && number(s, DESIRED_REPLICAS) == Some(self.replicas()) && s.available() == self.replicas()
        };
        self.new_set().is_some_and(full)
    }

    fn scale_in_proportion(&mut self, mut active: Vec<usize>) {
        let allowed = if self.replicas() > 0 { self.replicas() + max_surge(self) } else { 0 };
        let to_add = allowed - active.iter().map(|&i| self.sets[i].replicas()).sum::<i32>();
        // From the largest; of equals the younger first when growing, the older first when shrinking.
        active.sort_by_key(|&i| (-self.sets[i].replicas(), if to_add > 0 { -(i as i64) } else { i as i64 }));
        let mut added = 0;
        let mut sizes = Vec::with_capacity(active.len());
        for &i in &active {
            let share = self.share(&self.sets[i], to_add, added);
            added += share;
            sizes.push(self.sets[i].replicas() + share);
        }
        if let Some(largest) = sizes.first_mut() {
            *largest = (*largest + to_add - added).max(0);
        }
        for (i, size) in active.into_iter().zip(sizes) {
            self.scale_set(i, size);
        }
    }

    /// What a set gets of `to_add`, of which `added` is given out already.
    fn share(&self, set: &Set, to_add: i32, added: i32) -> i32 {
        if set.replicas() == 0 || to_add == added {
            return 0;
        }
        let left = to_add - added;
        if to_add > 0 { self.fraction(set).min(left) } else { self.fraction(set).max(left) }
    }

    fn fraction(&self, set: &Set) -> i32 {
        if self.replicas() == 0 {
            return -set.replicas();
        }
        let before = number(set, MAX_REPLICAS).filter(|&n| n != 0).or(self.d.status.as_ref().and_then(|s| s.replicas)).unwrap_or(0);
        if before == 0 {
            return 0;
        }
        let size = f64::from(set.replicas()) * f64::from(self.replicas() + max_surge(self)) / f64::from(before);
        // In range: a set never outgrows the Deployment's limit, itself an i32.
        size.round() as i32 - set.replicas()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_up_for_surge_and_down_for_unavailability() {
        let percent = |p: &str| Some(IntOrString::String(p.into()));
        for (value, total, up, down) in
            [("25%", 10, 3, 2), ("25%", 4, 1, 1), ("1%", 1, 1, 0), ("0%", 5, 0, 0), ("100%", 3, 3, 3), ("x", 3, 0, 0)]
        {
            assert_eq!(scaled(percent(value).as_ref(), total, true), up, "{value} of {total} up");
            assert_eq!(scaled(percent(value).as_ref(), total, false), down, "{value} of {total} down");
        }
        assert_eq!(scaled(Some(&IntOrString::Int(7)), 3, true), 7);
    }
}
