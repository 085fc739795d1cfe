//! ReplicaSet (apps/v1): keeps `spec.replicas` pods of its template. Follows pkg/controller/replicaset.

use super::owners::{Claims, claim, controller_ref, is_controlled_by, keys_of, keys_of_owners, own_key};
use super::plan::{Action, Controller, Deletion, Key, Note, Plan, Text, namespace_terminating, reference};
use super::pods;
use crate::kinds::{Object, Pod, Ref, ReplicaSet, controller_of};
use crate::meta::{ObjectMeta, Selector, Status};
use crate::watch::{Event, Snapshot};
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use std::collections::HashSet;

/// The most pods made or deleted in one run (burstReplicas).
const BURST: usize = 500;
/// The longest name that still takes a dash and a suffix (a pod's name is a DNS subdomain).
const NAME_MAX: usize = 253;

pub struct ReplicaSets;

impl Controller for ReplicaSets {
    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    fn keys_for(&self, event: &Event, snapshot: &Snapshot) -> Vec<Key> {
        let selector = |rs: &apps::ReplicaSet| Selector::from_label_selector(&rs.spec.as_ref()?.selector).ok();
        let mut keys = keys_of_owners::<Pod, ReplicaSet>(event, snapshot, selector);
        keys.extend(own_key::<ReplicaSet>(event));
        keys
    }

    fn all_keys(&self, snapshot: &Snapshot) -> Vec<Key> {
        keys_of::<ReplicaSet>(snapshot)
    }

    fn reconcile(&self, snapshot: &Snapshot, key: &Key, now: Timestamp) -> Plan {
        let Some(rs) = snapshot.get::<ReplicaSet>(&key.object.namespace, &key.object.name) else { return Plan::default() };
        let Some(spec) = &rs.spec else { return Plan::default() };
        let Ok(selector) = Selector::from_label_selector(&spec.selector) else { return Plan::default() };
        reconcile(snapshot, &rs, spec, &selector, now)
    }
}

fn reconcile(snapshot: &Snapshot, rs: &Ref<ReplicaSet>, spec: &apps::ReplicaSetSpec, selector: &Selector, now: Timestamp) -> Plan {
    let Claims { owned, actions } = claim::<Pod>(snapshot, rs.object(), selector, pods::is_active);
    let claiming = !actions.is_empty();
    let mut plan = Plan::step(actions);
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if rs.metadata.deletion_timestamp.is_none() {
        if owned.len() < wanted {
            create_pods(&mut plan, rs, spec, (wanted - owned.len()).min(BURST));
        } else if owned.len() > wanted {
            let count = (owned.len() - wanted).min(BURST);
            let related = related_pods(snapshot, rs.object());
            let doomed = pods::to_delete(owned.clone(), &related, count, now);
            plan.then(doomed.iter().map(|pod| delete_pod(rs.object(), pod)).collect());
        }
    }
    let terminating = snapshot
        .owned_by(rs.object().uid())
        .filter_map(|o| o.get::<Pod>())
        .filter(|p| pods::is_stopping(p) && is_controlled_by(&p.metadata, rs.object()) && selector.matches(p.metadata.labels.as_ref()));
    let counted = count(rs, spec, &owned, terminating.count(), now);
    // A ReplicaFailure tells of pods that could not be made or deleted, not of a claim that failed.
    let blame = if claiming || plan.steps.is_empty() {
        ""
    } else if owned.len() < wanted {
        "FailedCreate"
    } else {
        "FailedDelete"
    };
    write_status(&mut plan, rs, counted, blame, now);
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    if min_ready > 0
        && let Some(at) = owned.iter().filter_map(|p| pods::available_at(p, min_ready)).filter(|&at| at > now).min()
    {
        plan.requeue(at);
    }
    plan
}

/// Slow start: 1, 4, 16… at once, so that what must fail fails once and not `count` times.
fn create_pods(plan: &mut Plan, rs: &Ref<ReplicaSet>, spec: &apps::ReplicaSetSpec, count: usize) {
    let about = reference(rs.object());
    let create = Action::create::<Pod>(&pod_from_template(rs.object(), spec))
        .done(Note::normal(about.clone(), "SuccessfulCreate", Text::Then("Created pod: ".into())))
        .failed(Note::warning(about, "FailedCreate", Text::Then("Error creating: ".into())))
        .forgive(namespace_terminating);
    let (mut left, mut batch) = (count, 1);
    while left > 0 {
        let size = left.min(batch);
        plan.then(vec![create.clone(); size]);
        left -= size;
        batch *= 4;
    }
}

fn pod_from_template(rs: &Object, spec: &apps::ReplicaSetSpec) -> core::Pod {
    let template = spec.template.clone().unwrap_or_default();
    let of = template.metadata.unwrap_or_default();
    let name = rs.meta().name.as_deref().unwrap_or_default();
    let prefix = if name.len() < NAME_MAX { format!("{name}-") } else { name.to_owned() };
    core::Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix),
            namespace: rs.meta().namespace.clone(),
            labels: of.labels,
            annotations: of.annotations,
            finalizers: of.finalizers,
            owner_references: Some(vec![controller_ref(rs)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

fn delete_pod(rs: &Object, pod: &Ref<Pod>) -> Action {
    let about = reference(rs);
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    Action::delete(pod.object(), Deletion::default())
        .done(Note::normal(about.clone(), "SuccessfulDelete", Text::Is(format!("Deleted pod: {name}"))))
        .failed(Note::warning(about, "FailedDelete", Text::Then("Error deleting: ".into())))
}

/// Pods of all ReplicaSets that have the same controller: those that this one's pods should spread with.
fn related_pods(snapshot: &Snapshot, rs: &Object) -> Vec<Ref<Pod>> {
    let siblings: Vec<&Object> = match controller_of(rs.meta()) {
        None => vec![rs],
        Some(owner) => {
            let controlled = |o: &Object| controller_of(o.meta()).is_some_and(|r| r.uid == owner.uid) && o.get::<ReplicaSet>().is_some();
            snapshot.owned_by(&owner.uid).map(|o| &**o).filter(|o| controlled(o)).collect()
        }
    };
    let mut seen = HashSet::new();
    let pods = siblings.into_iter().flat_map(|s| snapshot.owned_by(s.uid()));
    pods.filter(|p| seen.insert(p.uid().to_owned())).filter_map(|p| Ref::new(p.clone())).collect()
}

/// Plans the status: of success, and of a failure that `blame` is the reason of.
fn write_status(plan: &mut Plan, rs: &Ref<ReplicaSet>, counted: apps::ReplicaSetStatus, blame: &'static str, now: Timestamp) {
    let old = normal(&rs.status.clone().unwrap_or_default());
    let mut healthy = counted.clone();
    set_failure(&mut healthy, None);
    if normal(&healthy) != old {
        plan.status = Some(status_action(rs, healthy));
    }
    if blame.is_empty() {
        return;
    }
    let rs = rs.clone();
    plan.on_failure = Some(Box::new(move |error: &Status| {
        let mut failed = counted;
        if failed.conditions.iter().flatten().all(|c| c.type_ != "ReplicaFailure") {
            let condition = apps::ReplicaSetCondition {
                type_: "ReplicaFailure".into(),
                status: "True".into(),
                last_transition_time: pods::transition(now),
                reason: Some(blame.into()),
                message: Some(error.message.clone()),
            };
            set_failure(&mut failed, Some(condition));
        }
        (normal(&failed) != old).then(|| status_action(&rs, failed))
    }));
}

/// The counts; conditions as they are.
fn count(
    rs: &Ref<ReplicaSet>,
    spec: &apps::ReplicaSetSpec,
    owned: &[Ref<Pod>],
    terminating: usize,
    now: Timestamp,
) -> apps::ReplicaSetStatus {
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let some = |n: usize| (n > 0).then(|| number(n));
    let template = spec.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone()).unwrap_or_default();
    let template = Selector::from_map(&template);
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let counting = |f: &dyn Fn(&core::Pod) -> bool| some(owned.iter().filter(|p| f(p)).count());
    apps::ReplicaSetStatus {
        replicas: number(owned.len()),
        fully_labeled_replicas: counting(&|p| template.matches(p.metadata.labels.as_ref())),
        ready_replicas: counting(&pods::is_ready),
        available_replicas: counting(&|p| pods::is_available(p, min_ready, now)),
        terminating_replicas: Some(number(terminating)),
        observed_generation: rs.metadata.generation,
        conditions: rs.status.as_ref().and_then(|s| s.conditions.clone()),
    }
}

fn set_failure(status: &mut apps::ReplicaSetStatus, condition: Option<apps::ReplicaSetCondition>) {
    let mut conditions: Vec<_> = status.conditions.take().unwrap_or_default();
    conditions.retain(|c| c.type_ != "ReplicaFailure");
    conditions.extend(condition);
    status.conditions = Some(conditions).filter(|c| !c.is_empty());
}

/// Zero and absent are the same.
fn normal(status: &apps::ReplicaSetStatus) -> apps::ReplicaSetStatus {
    let mut status = status.clone();
    for field in [&mut status.fully_labeled_replicas, &mut status.ready_replicas, &mut status.available_replicas] {
        *field = field.filter(|&n| n != 0);
    }
    status.conditions = status.conditions.filter(|c| !c.is_empty());
    status
}

fn status_action(rs: &Ref<ReplicaSet>, status: apps::ReplicaSetStatus) -> Action {
    let mut object = (**rs).clone();
    object.status = Some(status);
    Action::update::<ReplicaSet>(&object).sub("status")
}
