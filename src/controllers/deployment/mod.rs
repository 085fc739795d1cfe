//! Deployment (apps/v1): rolls ReplicaSets from one template to the next. Follows pkg/controller/deployment.

mod history;
mod rolling;
mod scale;
mod status;
mod template;
#[cfg(test)]
mod tests;

use super::owners::{Claims, claim, keys_of, keys_of_owners, own_key};
use super::plan::{Action, Controller, Key, Note, Plan, Text, reference};
use crate::kinds::{Deployment, Object, Pod, Ref, ReplicaSet, controller_of};
use crate::meta::{Selector, time};
use crate::watch::{Change, Event, Snapshot};
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::jiff::Timestamp;

pub struct Deployments;

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn keys_for(&self, event: &Event, snapshot: &Snapshot) -> Vec<Key> {
        let selector = |d: &apps::Deployment| Selector::from_label_selector(&d.spec.as_ref()?.selector).ok();
        let mut keys = keys_of_owners::<ReplicaSet, Deployment>(event, snapshot, selector);
        keys.extend(own_key::<Deployment>(event));
        keys.extend(of_vanished_pod(event, snapshot));
        keys
    }

    fn all_keys(&self, snapshot: &Snapshot) -> Vec<Key> {
        keys_of::<Deployment>(snapshot)
    }

    fn reconcile(&self, snapshot: &Snapshot, key: &Key, now: Timestamp) -> Plan {
        let Some(d) = snapshot.get::<Deployment>(&key.object.namespace, &key.object.name) else { return Plan::default() };
        let Some(spec) = &d.spec else { return Plan::default() };
        let Ok(selector) = Selector::from_label_selector(&spec.selector) else { return Plan::default() };
        if selector.is_empty() {
            return Plan::default();
        }
        let Claims { owned, actions } = claim::<ReplicaSet>(snapshot, d.object(), &selector, |_| true);
        if !actions.is_empty() {
            // What was adopted has a new revision; the next run goes on with that.
            return Plan::step(actions);
        }
        let rollout = Rollout::new(snapshot, d.clone(), spec, owned, now);
        if d.metadata.deletion_timestamp.is_some() { rollout.only_status() } else { rollout.run() }
    }
}

/// A Recreate waits for the last old pod to go.
fn of_vanished_pod(event: &Event, snapshot: &Snapshot) -> Option<Key> {
    let pod = event.object.get::<Pod>()?;
    if event.change != Change::Deleted && !super::pods::is_terminal(pod) {
        return None;
    }
    let namespace = pod.metadata.namespace.as_deref()?;
    let set = snapshot.get::<ReplicaSet>(namespace, &controller_of(&pod.metadata)?.name)?;
    let owner = controller_of(&set.metadata).filter(|o| o.kind == "Deployment")?;
    let d = snapshot.get::<Deployment>(namespace, &owner.name)?;
    let strategy = d.spec.as_ref()?.strategy.as_ref()?;
    (strategy.type_.as_deref() == Some("Recreate")).then(|| Key::of(d.object()))
}

/// A ReplicaSet as it is, and as this run wants it.
struct Set {
    old: Ref<ReplicaSet>,
    new: apps::ReplicaSet,
}

impl Set {
    fn name(&self) -> &str {
        self.new.metadata.name.as_deref().unwrap_or_default()
    }
    fn replicas(&self) -> i32 {
        self.new.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }
    fn set_replicas(&mut self, replicas: i32) {
        self.new.spec.get_or_insert_default().replicas = Some(replicas);
    }
    fn status(&self) -> apps::ReplicaSetStatus {
        self.new.status.clone().unwrap_or_default()
    }
    fn available(&self) -> i32 {
        self.new.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
    }
    fn annotation(&self, key: &str) -> Option<&String> {
        self.new.metadata.annotations.as_ref()?.get(key)
    }
    fn annotate(&mut self, key: &str, value: String) -> bool {
        self.new.metadata.annotations.get_or_insert_default().insert(key.into(), value.clone()) != Some(value)
    }
}

/// One run over one Deployment: what is seen, and what has been decided so far.
struct Rollout<'a> {
    snapshot: &'a Snapshot,
    d: Ref<Deployment>,
    spec: &'a apps::DeploymentSpec,
    now: Timestamp,
    /// From the oldest to the youngest.
    sets: Vec<Set>,
    /// Which of `sets` has the present template.
    new: Option<usize>,
    /// The status before this run, with the conditions that the run has changed.
    status: apps::DeploymentStatus,
    /// The revision that the Deployment should be annotated with.
    revision: Option<String>,
    /// The ReplicaSet to be made, by name, and those to be deleted.
    made: Option<(String, Action)>,
    deleted: Vec<Action>,
}

impl<'a> Rollout<'a> {
    fn new(
        snapshot: &'a Snapshot,
        d: Ref<Deployment>,
        spec: &'a apps::DeploymentSpec,
        mut owned: Vec<Ref<ReplicaSet>>,
        now: Timestamp,
    ) -> Self {
        owned.sort_by_key(age);
        let sets: Vec<Set> = owned.into_iter().map(|rs| Set { new: (*rs).clone(), old: rs }).collect();
        let new = sets.iter().position(|s| template::same(s.new.spec.as_ref().and_then(|s| s.template.as_ref()), &spec.template));
        let status = d.status.clone().unwrap_or_default();
        Self { snapshot, d, spec, now, sets, new, status, revision: None, made: None, deleted: Vec::new() }
    }

    fn run(mut self) -> Plan {
        self.note_pause();
        self.sync_revision();
        if self.spec.paused == Some(true) {
            self.scale();
            self.clean_up();
            return self.finish(status::Kind::Scaling);
        }
        if self.is_scaling_event() {
            self.scale();
            return self.finish(status::Kind::Scaling);
        }
        if self.is_rolling_update() {
            self.roll();
        } else {
            self.recreate();
        }
        self.finish(status::Kind::Rollout)
    }

    fn only_status(mut self) -> Plan {
        self.sync_revision();
        self.finish(status::Kind::Scaling)
    }

    fn name(&self) -> &str {
        self.d.metadata.name.as_deref().unwrap_or_default()
    }
    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }
    fn is_rolling_update(&self) -> bool {
        self.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("Recreate")
    }
    fn new_set(&self) -> Option<&Set> {
        self.new.map(|i| &self.sets[i])
    }
    /// Numbers of the sets with an older template, from the oldest to the youngest.
    fn old_sets(&self) -> impl Iterator<Item = usize> + use<> {
        let new = self.new;
        (0..self.sets.len()).filter(move |i| Some(*i) != new)
    }
    fn is_complete(&self) -> bool {
        status::is_complete(&self.d, self.replicas(), &self.status)
    }

    /// Writes what was decided: ReplicaSets first, then the Deployment's status and with it its revision.
    fn finish(mut self, kind: status::Kind) -> Plan {
        let mut plan = Plan::default();
        let about = reference(self.d.object());
        let mut changes: Vec<Action> = self.sets.iter().filter_map(|s| update_set(s, &about)).collect();
        let (making, made) = self.made.take().unzip();
        changes.extend(made);
        changes.append(&mut self.deleted);
        plan.then(changes);
        self.write_status(&mut plan, kind, making);
        plan
    }

    /// Sets a condition, unless one of this type has its status and reason already.
    fn set_condition(&mut self, kind: &str, state: &str, reason: &str, message: String) {
        status::set_condition(&mut self.status, kind, state, reason, message, self.now);
    }
}

fn age(rs: &Ref<ReplicaSet>) -> (Timestamp, String) {
    let created = rs.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    (created, rs.metadata.name.clone().unwrap_or_default())
}

fn update_set(set: &Set, about: &k8s_openapi::api::core::v1::ObjectReference) -> Option<Action> {
    if set.new == *set.old {
        return None;
    }
    let action = Action::update::<ReplicaSet>(&set.new);
    let before = set.old.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let after = set.replicas();
    if before == after {
        return Some(action);
    }
    let way = if before < after { "up" } else { "down" };
    let text = format!("Scaled {way} replica set {} from {before} to {after}", set.name());
    Some(action.done(Note::normal(about.clone(), "ScalingReplicaSet", Text::Is(text))))
}

/// Of a set's object, for those that need it untyped.
fn object(set: &Set) -> &Object {
    set.old.object()
}

fn seconds(now: Timestamp) -> Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time> {
    Some(time::seconds(now))
}
