//! Revisions: which set has which, what annotations it carries, the making of the set of a new template, and the clearing
//! away of old ones.

use super::super::owners::is_controlled_by;
use super::super::plan::{Action, Deletion, Note, Text, namespace_terminating, reference};
use super::{Rollout, Set, object, scale, template};
use crate::kinds::ReplicaSet;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of the Deployment that its sets do not get.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// The most characters of a revision history (about 100 revisions).
const HISTORY_MAX: usize = 2000;

fn revision_of(set: &Set) -> Option<i64> {
    set.annotation(REVISION).map_or(Some(0), |r| r.parse().ok())
}

/// What a set of the present template should be annotated with, on top of what it is.
fn annotate(set: &mut Set, r: &Annotations) {
    for (key, value) in &r.copied {
        set.annotate(key, value.clone());
    }
    let old = set.annotation(REVISION).cloned();
    let Some(before) = old.as_deref().map_or(Some(0), |o| o.parse::<i64>().ok()) else { return };
    if before >= r.revision {
        return;
    }
    set.annotate(REVISION, r.revision.to_string());
    // The set served an earlier revision already: this is a rollback to it.
    if let Some(old) = old {
        let history = set.annotation(REVISION_HISTORY).cloned().unwrap_or_default();
        if let Some(longer) = append_history(&history, &old) {
            set.annotate(REVISION_HISTORY, longer);
        }
    }
}

/// `history` and `revision` at its end, without as many of the first as would make it too long.
fn append_history(history: &str, revision: &str) -> Option<String> {
    if history.is_empty() {
        return Some(revision.to_owned());
    }
    let mut parts: Vec<&str> = history.split(',').chain([revision]).collect();
    while parts.iter().map(|p| p.len() + 1).sum::<usize>() - 1 > HISTORY_MAX && parts.len() > 1 {
        parts.remove(0);
    }
    let joined = parts.join(",");
    (joined.len() <= HISTORY_MAX).then_some(joined)
}

struct Annotations {
    copied: Vec<(String, String)>,
    revision: i64,
}

impl Rollout<'_> {
    fn annotations(&self) -> Annotations {
        let all = self.d.metadata.annotations.iter().flatten();
        let copied = all.filter(|(k, _)| !NOT_COPIED.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
        let newest_old = self.old_sets().filter_map(|i| revision_of(&self.sets[i])).max().unwrap_or(0);
        Annotations { copied, revision: newest_old.max(0) + 1 }
    }

    /// Brings revision and annotations of the new set, if there is one, up to date, and remembers the Deployment's.
    pub fn sync_revision(&mut self) {
        let Some(new) = self.new else { return };
        let annotations = self.annotations();
        let set = &mut self.sets[new];
        annotate(set, &annotations);
        let wanted = self.spec.min_ready_seconds.unwrap_or(0);
        let spec = set.new.spec.get_or_insert_default();
        if spec.min_ready_seconds.unwrap_or(0) != wanted {
            spec.min_ready_seconds = Some(wanted);
        }
        self.revision = set.annotation(REVISION).cloned();
        if self.has_deadline() && !self.status.conditions.iter().flatten().any(|c| c.type_ == "Progressing") {
            let text = format!("Found new replica set \"{}\"", self.sets[new].name());
            self.set_condition("Progressing", "True", "FoundNewReplicaSet", text);
        }
    }

    /// Makes the set of the present template. If its name is taken by another, the next run tries another hash.
    pub fn make_new_set(&mut self) {
        let mut new = template::new_set(self);
        let namespace = self.d.metadata.namespace.as_deref().unwrap_or_default();
        let name = new.metadata.name.clone().unwrap_or_default();
        if let Some(taken) = self.snapshot.get::<ReplicaSet>(namespace, &name) {
            let ours = is_controlled_by(&taken.metadata, self.d.object());
            if !ours || !template::same(taken.spec.as_ref().and_then(|s| s.template.as_ref()), &self.spec.template) {
                self.status.collision_count = Some(self.status.collision_count.unwrap_or(0).saturating_add(1));
            }
            return;
        }
        let annotations = self.annotations();
        let replicas = new.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        let kept = new.metadata.annotations.get_or_insert_default();
        kept.extend(annotations.copied);
        kept.insert(REVISION.into(), annotations.revision.to_string());
        kept.insert(DESIRED_REPLICAS.into(), self.replicas().to_string());
        kept.insert(MAX_REPLICAS.into(), (self.replicas() + scale::max_surge(self)).to_string());
        let about = reference(self.d.object());
        let failed = Text::Then(format!("Failed to create new replica set \"{name}\": "));
        let mut action = Action::create::<ReplicaSet>(&new)
            .failed(Note::warning(about.clone(), "ReplicaSetCreateError", failed))
            .forgive(namespace_terminating);
        if replicas > 0 {
            let text = format!("Scaled up replica set {name} from 0 to {replicas}");
            action = action.done(Note::normal(about, "ScalingReplicaSet", Text::Is(text)));
        }
        self.made = Some((name.clone(), action));
        self.revision = Some(annotations.revision.to_string());
        if self.has_deadline() {
            self.set_condition("Progressing", "True", "NewReplicaSetCreated", format!("Created new replica set \"{name}\""));
        }
    }

    /// Deletes old sets without pods, beyond the number that revisionHistoryLimit keeps.
    pub fn clean_up(&mut self) {
        let Some(limit) = self.spec.revision_history_limit.filter(|&l| l != i32::MAX) else { return };
        let limit = usize::try_from(limit).unwrap_or(0);
        let mut old: Vec<usize> = self.old_sets().filter(|&i| self.sets[i].old.metadata.deletion_timestamp.is_none()).collect();
        let Some(excess) = old.len().checked_sub(limit) else { return };
        // Sets of one revision stay in the order of their age.
        old.sort_by_key(|&i| revision_of(&self.sets[i]).unwrap_or(0));
        for &i in old.iter().take(excess) {
            let set = &self.sets[i];
            let status = set.status();
            let seen = status.observed_generation.unwrap_or(0) >= set.old.metadata.generation.unwrap_or(0);
            if status.replicas == 0 && set.replicas() == 0 && seen {
                self.deleted.push(Action::delete(object(set), Deletion::default()).at(object(set)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_forgets_the_oldest_revisions_first() {
        assert_eq!(append_history("", "1").as_deref(), Some("1"));
        assert_eq!(append_history("1,3", "5").as_deref(), Some("1,3,5"));
        let long = (0..600).map(|_| "123").collect::<Vec<_>>().join(",");
        let appended = append_history(&long, "999").unwrap();
        assert!(appended.len() <= HISTORY_MAX && appended.ends_with(",999"));
    }
}
