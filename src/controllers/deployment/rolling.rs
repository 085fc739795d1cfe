//! The two ways from an old template to a new one: RollingUpdate and Recreate.

use super::super::pods;
use super::{Rollout, Set, scale};
use crate::kinds::{Pod, controller_of};

impl Rollout<'_> {
    /// One step of a rolling update: the new set grows if it can, otherwise old ones shrink.
    pub fn roll(&mut self) {
        let Some(new) = self.new else {
            self.make_new_set();
            return;
        };
        if !self.grow(new) && !self.shrink(new) && self.is_complete() {
            self.clean_up();
        }
    }

    fn grow(&mut self, new: usize) -> bool {
        let (present, wanted) = (self.sets[new].replicas(), self.replicas());
        let size = if present > wanted { wanted } else { scale::new_set_replicas(self, present) };
        self.resize_set(new, size)
    }

    fn shrink(&mut self, new: usize) -> bool {
        let old: Vec<usize> = self.old_sets().filter(|&i| self.sets[i].replicas() > 0).collect();
        if old.is_empty() {
            return false;
        }
        let least = self.replicas() - scale::max_unavailable(self);
        let unavailable_new = self.sets[new].replicas() - self.sets[new].available();
        let most = self.total_replicas() - least - unavailable_new;
        if most <= 0 {
            return false;
        }
        let unhealthy = self.shrink_unhealthy(&old, most);
        let surplus = self.shrink_surplus(&old, least);
        unhealthy || surplus
    }

    /// Takes from old sets what is not available, at most `most`: it serves nobody.
    fn shrink_unhealthy(&mut self, old: &[usize], most: i32) -> bool {
        let mut done = 0;
        for &i in old {
            let (replicas, available) = (self.sets[i].replicas(), self.sets[i].available());
            if done >= most || replicas == 0 || replicas == available {
                continue;
            }
            let count = (most - done).min(replicas - available);
            // More available than wanted: the set is already on its way down.
            if count > 0 {
                self.resize_set(i, replicas - count);
                done += count;
            }
        }
        done > 0
    }

    /// Takes from old sets, from the oldest on, as long as `least` pods stay available.
    fn shrink_surplus(&mut self, old: &[usize], least: i32) -> bool {
        let spare = self.sets.iter().map(Set::available).sum::<i32>() - least;
        let mut done = 0;
        for &i in old {
            let replicas = self.sets[i].replicas();
            if done >= spare || replicas == 0 {
                continue;
            }
            let count = replicas.min(spare - done);
            self.resize_set(i, replicas - count);
            done += count;
        }
        done > 0
    }

    /// One step of a Recreate: first all old pods go, then the new set comes.
    pub fn recreate(&mut self) {
        let mut shrunk = false;
        for i in self.old_sets() {
            if self.sets[i].replicas() > 0 {
                shrunk |= self.resize_set(i, 0);
            }
        }
        if shrunk || self.old_pods_run() {
            return;
        }
        let Some(new) = self.new else {
            self.make_new_set();
            return;
        };
        self.resize_set(new, self.replicas());
        if self.is_complete() {
            self.clean_up();
        }
    }

    fn old_pods_run(&self) -> bool {
        self.old_sets().any(|i| {
            let set = &self.sets[i];
            let uid = set.old.object().uid();
            let pods = self.snapshot.owned_by(uid).filter(|o| controller_of(o.meta()).is_some_and(|r| r.uid == uid));
            set.status().replicas > 0 || pods.filter_map(|o| o.get::<Pod>()).any(|p| !pods::is_terminal(p))
        })
    }
}
