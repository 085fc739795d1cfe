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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::testing::{World, follow, run_key, settle, undone};
    use serde_json::{Value, json};

    fn set(replicas: i32) -> Value {
        json!({"metadata": {"name": "web", "namespace": "a"}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web", "x": "y"}, "annotations": {"n": "1"}}, "spec": {"containers": [{"name": "c"}]}}}})
    }

    fn key() -> Key {
        Key::new::<ReplicaSet>("a", "web")
    }

    fn status(world: &World) -> apps::ReplicaSetStatus {
        world.get::<ReplicaSet>("a", "web").unwrap().status.unwrap_or_default()
    }

    fn active(world: &World) -> usize {
        world.all::<Pod>().iter().filter(|p| pods::is_active(p)).count()
    }

    #[test]
    fn pods_are_made_from_the_template_and_counted() {
        let world = World::new();
        world.put::<ReplicaSet>(set(7));
        let said = settle(&world, &ReplicaSets);
        let pods = world.all::<Pod>();
        assert_eq!((pods.len(), said.len()), (7, 7));
        let meta = &pods[0].metadata;
        assert!(said.contains(&format!("SuccessfulCreate Created pod: {}", meta.name.as_deref().unwrap())));
        assert_eq!(meta.generate_name.as_deref(), Some("web-"));
        assert_eq!(meta.labels.as_ref().unwrap()["x"], "y");
        assert_eq!(meta.annotations.as_ref().unwrap()["n"], "1");
        let owner = &meta.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.controller, owner.block_owner_deletion, owner.api_version.as_str()), (Some(true), Some(true), "apps/v1"));
        let s = status(&world);
        assert_eq!((s.replicas, s.fully_labeled_replicas, s.ready_replicas, s.observed_generation), (7, Some(7), None, Some(1)));
    }

    #[test]
    fn matching_orphans_are_adopted_and_others_released() {
        let world = World::new();
        world.put::<Pod>(
            json!({"metadata": {"name": "orphan", "namespace": "a", "labels": {"app": "web"}}, "status": {"phase": "Running"}}),
        );
        world.put::<Pod>(json!({"metadata": {"name": "elsewhere", "namespace": "b", "labels": {"app": "web"}}}));
        world.put::<ReplicaSet>(set(1));
        follow(&world, &[&ReplicaSets], |_| false);
        let orphan = world.get::<Pod>("a", "orphan").unwrap();
        assert_eq!(orphan.metadata.owner_references.unwrap()[0].name, "web");
        assert_eq!(world.all::<Pod>().len(), 2);
        world.edit::<Pod>("a", "orphan", |p| p["metadata"]["labels"] = json!({"app": "other"}));
        follow(&world, &[&ReplicaSets], |_| false);
        assert!(world.get::<Pod>("a", "orphan").unwrap().metadata.owner_references.is_none_or(|r| r.is_empty()));
        assert_eq!(world.all::<Pod>().len(), 3);
        assert!(undone(&world, &[&ReplicaSets]).is_empty());
    }

    #[test]
    fn the_least_useful_pods_are_deleted_first() {
        let pod = |name: &str, node: &str, phase: &str, ready: bool, cost: &str, restarts: i32, created_s: i64| {
            let condition =
                json!({"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:00Z"});
            json!({
                "metadata": {"name": name, "namespace": "a", "uid": name, "annotations": {"controller.kubernetes.io/pod-deletion-cost": cost},
                    "creationTimestamp": Timestamp::from_second(1_767_225_600 - created_s).unwrap().to_string()},
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": phase, "conditions": [condition],
                    "containerStatuses": [{"name": "c", "restartCount": restarts, "image": "", "imageID": "", "ready": true}]}
            })
        };
        let world = World::new();
        for value in [
            pod("h-old", "n1", "Running", true, "0", 0, 100_000),
            pod("g-young", "n1", "Running", true, "0", 0, 10),
            pod("f-restarted", "n1", "Running", true, "0", 5, 100_000),
            pod("d-cheap", "n1", "Running", true, "-5", 0, 100_000),
            pod("c-not-ready", "n1", "Running", false, "0", 0, 100_000),
            pod("b-pending", "n1", "Pending", false, "0", 0, 100_000),
            pod("a-unassigned", "", "Pending", false, "0", 0, 100_000),
            pod("e-doubled", "n2", "Running", true, "0", 0, 100_000),
        ] {
            world.put::<Pod>(value);
        }
        let snapshot = crate::watch::Feed::snapshot(&*world);
        let all: Vec<Ref<Pod>> = snapshot.list::<Pod>(None).collect();
        let mut related = all.clone();
        related.extend(std::iter::repeat_n(snapshot.get::<Pod>("a", "e-doubled").unwrap(), 8));
        let now = Timestamp::from_second(1_767_225_600 + 100).unwrap();
        let order: Vec<_> = pods::to_delete(all, &related, 7, now).iter().map(|p| p.metadata.name.clone().unwrap()).collect();
        assert_eq!(order, ["a-unassigned", "b-pending", "c-not-ready", "d-cheap", "e-doubled", "f-restarted", "g-young"]);
    }

    #[test]
    fn a_refused_pod_is_a_condition_until_it_can_be_made() {
        let world = World::new();
        world.put::<ReplicaSet>(set(2));
        let plan = ReplicaSets.reconcile(&crate::watch::Feed::snapshot(&*world), &key(), world.now());
        let on_failure = plan.on_failure.unwrap();
        let action = on_failure(&Status::bad_request("no room")).unwrap();
        let crate::controllers::plan::Change::Update(body) = action.change else { panic!("a status is replaced") };
        let c = &body["status"]["conditions"][0];
        assert_eq!(
            (c["type"].as_str(), c["reason"].as_str(), c["message"].as_str()),
            (Some("ReplicaFailure"), Some("FailedCreate"), Some("no room"))
        );
        world.edit::<ReplicaSet>("a", "web", |rs| rs["status"] = body["status"].clone());
        settle(&world, &ReplicaSets);
        assert!(status(&world).conditions.is_none_or(|c| c.is_empty()));
    }

    #[test]
    fn availability_waits_for_min_ready_seconds() {
        let world = World::new();
        let mut rs = set(1);
        rs["spec"]["minReadySeconds"] = json!(10);
        world.put::<ReplicaSet>(rs);
        settle(&world, &ReplicaSets);
        let name = world.all::<Pod>()[0].metadata.name.clone().unwrap();
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": world.now().to_string()});
        world.edit::<Pod>("a", &name, |p| p["status"] = json!({"phase": "Running", "conditions": [ready]}));
        let (_, again) = run_key(&world, &ReplicaSets, &key());
        assert_eq!((status(&world).ready_replicas, status(&world).available_replicas), (Some(1), None));
        assert_eq!(again.unwrap(), world.now() + k8s_openapi::jiff::SignedDuration::from_secs(10));
        world.pass(10);
        settle(&world, &ReplicaSets);
        assert_eq!(status(&world).available_replicas, Some(1));
    }

    #[test]
    fn deleted_pods_are_replaced_at_once_and_ended_ones_too() {
        let world = World::new();
        world.put::<ReplicaSet>(set(2));
        follow(&world, &[&ReplicaSets], |_| false);
        let names: Vec<_> = world.all::<Pod>().iter().map(|p| p.metadata.name.clone().unwrap()).collect();
        world.edit::<Pod>("a", &names[0], |p| p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        world.edit::<Pod>("a", &names[1], |p| p["status"]["phase"] = json!("Failed"));
        follow(&world, &[&ReplicaSets], |_| false);
        assert_eq!((active(&world), status(&world).terminating_replicas), (2, Some(1)));
        world.edit::<ReplicaSet>("a", "web", |rs| rs["spec"]["replicas"] = json!(0));
        follow(&world, &[&ReplicaSets], |_| false);
        assert_eq!((active(&world), status(&world).replicas), (0, 0));
    }
}
