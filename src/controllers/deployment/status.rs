//! The Deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure.

use super::super::plan::{Action, Plan};
use super::history::REVISION;
use super::{Rollout, Set, seconds};
use crate::kinds::Deployment;
use crate::meta::{Reason, Status};
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// Whether a run may judge progress: not while scaling, paused or being deleted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Scaling,
    Rollout,
}

fn n(value: Option<i32>) -> i32 {
    value.unwrap_or(0)
}

fn condition<'a>(status: &'a apps::DeploymentStatus, kind: &str) -> Option<&'a apps::DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

fn remove_condition(status: &mut apps::DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_ != kind);
    }
}

/// Sets a condition unless one with its status and reason is there; the transition time moves only with the status.
pub fn set_condition(status: &mut apps::DeploymentStatus, kind: &str, state: &str, reason: &str, message: String, now: Timestamp) {
    let present = condition(status, kind);
    if present.is_some_and(|c| c.status == state && c.reason.as_deref() == Some(reason)) {
        return;
    }
    let kept = present.filter(|c| c.status == state).and_then(|c| c.last_transition_time.clone());
    let new = apps::DeploymentCondition {
        type_: kind.into(),
        status: state.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: seconds(now),
        last_transition_time: kept.or_else(|| seconds(now)),
    };
    remove_condition(status, kind);
    status.conditions.get_or_insert_default().push(new);
}

/// True once all replicas are of the new template and available, and no others are left.
pub fn is_complete(d: &apps::Deployment, replicas: i32, status: &apps::DeploymentStatus) -> bool {
    n(status.updated_replicas) == replicas
        && n(status.replicas) == replicas
        && n(status.available_replicas) == replicas
        && status.observed_generation.unwrap_or(0) >= d.metadata.generation.unwrap_or(0)
}

fn progresses(old: &apps::DeploymentStatus, new: &apps::DeploymentStatus) -> bool {
    let outdated = |s: &apps::DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// Zero and absent are the same.
fn normal(status: &apps::DeploymentStatus) -> apps::DeploymentStatus {
    let mut s = status.clone();
    let counts = [&mut s.replicas, &mut s.updated_replicas, &mut s.ready_replicas, &mut s.available_replicas, &mut s.unavailable_replicas];
    for count in counts {
        *count = count.filter(|&c| c != 0);
    }
    s.conditions = s.conditions.filter(|c| !c.is_empty());
    s
}

impl Rollout<'_> {
    pub fn has_deadline(&self) -> bool {
        self.spec.progress_deadline_seconds.is_some_and(|s| s != i32::MAX)
    }

    /// A pause stops the clock of the progress deadline; what has been reported as stuck stays so.
    pub fn note_pause(&mut self) {
        let reason = condition(&self.status, "Progressing").and_then(|c| c.reason.clone());
        if !self.has_deadline() || reason.as_deref() == Some("ProgressDeadlineExceeded") {
            return;
        }
        let (paused, noted) = (self.spec.paused == Some(true), reason.as_deref() == Some("DeploymentPaused"));
        if paused && !noted {
            self.set_condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused".into());
        } else if !paused && noted {
            self.set_condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed".into());
        }
    }

    fn counted(&self) -> apps::DeploymentStatus {
        let sum = |f: &dyn Fn(&apps::ReplicaSetStatus) -> i32| self.sets.iter().map(|s| f(&s.status())).sum::<i32>();
        let available = sum(&|s| n(s.available_replicas));
        let mut status = apps::DeploymentStatus {
            observed_generation: self.d.metadata.generation,
            replicas: Some(sum(&|s| s.replicas)),
            updated_replicas: Some(self.new_set().map_or(0, |s| s.status().replicas)),
            ready_replicas: Some(sum(&|s| n(s.ready_replicas))),
            available_replicas: Some(available),
            unavailable_replicas: Some((self.total_replicas() - available).max(0)),
            terminating_replicas: self.terminating(),
            collision_count: self.status.collision_count,
            conditions: self.status.conditions.clone(),
        };
        let (state, reason, message) = if available >= self.replicas() - super::scale::max_unavailable(self) {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        set_condition(&mut status, "Available", state, reason, message.into(), self.now);
        status
    }

    /// None as long as a set that has been seen does not say.
    fn terminating(&self) -> Option<i32> {
        let of = |s: &Set| match s.status() {
            apps::ReplicaSetStatus { terminating_replicas: Some(n), .. } => Some(n),
            s if s.observed_generation.unwrap_or(0) == 0 => Some(0),
            _ => None,
        };
        self.sets.iter().map(of).sum()
    }

    /// Judges the progress of a rollout; follows syncRolloutStatus.
    fn judge(&self, new: &mut apps::DeploymentStatus) {
        if !self.has_deadline() {
            remove_condition(new, "Progressing");
        }
        let present = condition(&self.status, "Progressing").cloned();
        let reason = present.as_ref().and_then(|c| c.reason.as_deref());
        let settled = n(new.replicas) == n(new.updated_replicas) && reason == Some("NewReplicaSetAvailable");
        if self.has_deadline() && !settled {
            let subject = match self.new_set() {
                Some(set) => format!("ReplicaSet \"{}\"", set.name()),
                None => format!("Deployment \"{}\"", self.name()),
            };
            if is_complete(&self.d, self.replicas(), new) {
                let text = format!("{subject} has successfully progressed.");
                set_condition(new, "Progressing", "True", "NewReplicaSetAvailable", text, self.now);
            } else if progresses(&self.status, new) {
                // Progress moves the update time even if nothing else changes.
                remove_condition(new, "Progressing");
                let text = format!("{subject} is progressing.");
                set_condition(new, "Progressing", "True", "ReplicaSetUpdated", text, self.now);
                self.keep_transition(new, present.as_ref());
            } else if self.timed_out(present.as_ref()) {
                let text = format!("{subject} has timed out progressing.");
                set_condition(new, "Progressing", "False", "ProgressDeadlineExceeded", text, self.now);
            }
        }
        self.judge_failures(new);
    }

    fn keep_transition(&self, new: &mut apps::DeploymentStatus, present: Option<&apps::DeploymentCondition>) {
        let Some(before) = present.filter(|c| c.status == "True") else { return };
        if let Some(c) = new.conditions.iter_mut().flatten().find(|c| c.type_ == "Progressing") {
            c.last_transition_time.clone_from(&before.last_transition_time);
        }
    }

    fn judge_failures(&self, new: &mut apps::DeploymentStatus) {
        let of_new = self.new_set().into_iter();
        let failure =
            of_new.chain(&self.sets).flat_map(|s| s.status().conditions.unwrap_or_default()).find(|c| c.type_ == "ReplicaFailure");
        match failure {
            None => remove_condition(new, "ReplicaFailure"),
            Some(c) => {
                let at = c.last_transition_time.as_ref().map_or(self.now, |t| t.0);
                set_condition(new, &c.type_, &c.status, &c.reason.unwrap_or_default(), c.message.unwrap_or_default(), at);
            }
        }
    }

    /// When a rollout that shows no progress fails.
    fn deadline(&self, progressing: &apps::DeploymentCondition) -> Option<Timestamp> {
        let from = progressing.last_update_time.as_ref()?.0;
        let seconds = self.spec.progress_deadline_seconds.filter(|&s| s != i32::MAX)?;
        Some(from + SignedDuration::from_secs(i64::from(seconds)))
    }

    fn timed_out(&self, progressing: Option<&apps::DeploymentCondition>) -> bool {
        let Some(c) = progressing else { return false };
        match c.reason.as_deref() {
            Some("NewReplicaSetAvailable") => false,
            Some("ProgressDeadlineExceeded") => true,
            _ => self.deadline(c).is_some_and(|at| at < self.now),
        }
    }

    /// Plans the status, what it becomes if the new set cannot be made, and the look at the progress deadline.
    pub fn write_status(&self, plan: &mut Plan, kind: Kind, making: Option<String>) {
        let mut new = self.counted();
        if kind == Kind::Rollout {
            self.judge(&mut new);
            let open = !is_complete(&self.d, self.replicas(), &new);
            let waiting = condition(&new, "Progressing").filter(|c| c.reason.as_deref() != Some("ProgressDeadlineExceeded"));
            if open && let Some(at) = waiting.and_then(|c| self.deadline(c)) {
                plan.requeue(at + SignedDuration::from_secs(1));
            }
        }
        let annotated = self.d.metadata.annotations.as_ref().and_then(|a| a.get(REVISION));
        let revision = self.revision.as_ref().filter(|r| Some(*r) != annotated);
        if revision.is_some() || normal(&new) != normal(&self.d.status.clone().unwrap_or_default()) {
            let mut d = (*self.d).clone();
            // With the status: an annotation written with the spec would count as a new generation.
            if let Some(revision) = revision {
                d.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision.clone());
            }
            plan.status = Some(write(&d, new));
        }
        if let Some(name) = making
            && self.has_deadline()
        {
            let (d, now, before) = (self.d.clone(), self.now, self.d.status.clone().unwrap_or_default());
            plan.on_failure = Some(Box::new(move |error: &Status| {
                // Taken: the next run sees by whom.
                if error.is(Reason::AlreadyExists) {
                    return None;
                }
                let mut failed = before.clone();
                let message = format!("Failed to create new replica set \"{name}\": {}", error.message);
                set_condition(&mut failed, "Progressing", "False", "ReplicaSetCreateError", message, now);
                (normal(&failed) != normal(&before)).then(|| write(&d, failed))
            }));
        }
    }
}

fn write(d: &apps::Deployment, status: apps::DeploymentStatus) -> Action {
    let mut object = d.clone();
    object.status = Some(normal(&status));
    Action::update::<Deployment>(&object).sub("status")
}
