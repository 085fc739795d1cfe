use super::Deployments;
use crate::controllers::plan::{Controller, Key};
use crate::controllers::replica_set::ReplicaSets;
use crate::controllers::testing::{World, follow, now_or_never, run_key, settle, undone};
use crate::kinds::{Deployment, Pod, ReplicaSet};
use k8s_openapi::api::apps::v1 as apps;
use serde_json::{Value, json};
use std::sync::Arc;

fn deployment(replicas: i32, image: &str, strategy: Value) -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "a", "labels": {"app": "web"}, "annotations": {"note": "kept"}},
        "spec": {
            "replicas": replicas, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10, "strategy": strategy,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}
        }
    })
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn web(world: &World) -> apps::Deployment {
    world.get::<Deployment>("a", "web").unwrap()
}

fn status(world: &World) -> apps::DeploymentStatus {
    web(world).status.unwrap_or_default()
}

fn condition(world: &World, kind: &str) -> (String, String, String) {
    let c = status(world).conditions.unwrap_or_default().into_iter().find(|c| c.type_ == kind).expect("the condition is there");
    (c.status, c.reason.unwrap_or_default(), c.message.unwrap_or_default())
}

/// Sizes by image.
fn sizes(world: &World) -> Vec<(String, i32)> {
    let mut out: Vec<_> = world.all::<ReplicaSet>().iter().map(|rs| (image(rs), replicas(rs))).collect();
    out.sort();
    out
}

fn image(rs: &apps::ReplicaSet) -> String {
    rs.spec.as_ref().unwrap().template.as_ref().unwrap().spec.as_ref().unwrap().containers[0].image.clone().unwrap()
}

fn replicas(rs: &apps::ReplicaSet) -> i32 {
    rs.spec.as_ref().unwrap().replicas.unwrap()
}

/// Every pod runs and is ready; those that are deleted go.
fn kubelet(world: &World, broken: &str) {
    for pod in world.all::<Pod>() {
        let (ns, name) = (pod.metadata.namespace.clone().unwrap(), pod.metadata.name.clone().unwrap());
        if pod.metadata.deletion_timestamp.is_some() {
            world.take::<Pod>(&ns, &name);
        } else if pod.spec.as_ref().unwrap().containers[0].image.as_deref() != Some(broken) {
            let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            world.edit::<Pod>(&ns, &name, |p| p["status"] = json!({"phase": "Running", "conditions": [ready]}));
        }
    }
}

fn both() -> [&'static dyn Controller; 2] {
    [&Deployments, &ReplicaSets]
}

/// Runs both controllers and the pods until nothing moves.
fn live(world: &World, broken: &str) {
    for _ in 0..60 {
        follow(world, &both(), |_| false);
        let before = world.snapshot_revision();
        kubelet(world, broken);
        follow(world, &both(), |_| false);
        if world.snapshot_revision() == before {
            return;
        }
    }
}

impl World {
    fn snapshot_revision(&self) -> i64 {
        use crate::watch::Feed;
        // Writes that change nothing make no revision.
        self.snapshot().everything().map(|o| o.revision()).max().unwrap_or(0)
    }
}

fn set_image(world: &World, image: &str) {
    world.edit::<Deployment>("a", "web", |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image));
}

#[test]
fn a_new_deployment_makes_a_set_and_reports_success_when_its_pods_are_available() {
    let world = World::new();
    world.put::<Deployment>(deployment(3, "v1", rolling(json!("25%"), json!("25%"))));
    let key = Key::new::<Deployment>("a", "web");
    let (outcome, _) = run_key(&world, &Deployments, &key);
    let rs = world.all::<ReplicaSet>().remove(0);
    let name = rs.metadata.name.clone().unwrap();
    assert_eq!(outcome.happened[0].message, format!("Scaled up replica set {name} from 0 to 3"));
    let hash = name.strip_prefix("web-").unwrap();
    assert_eq!(rs.metadata.labels.as_ref().unwrap()["pod-template-hash"], hash);
    let annotations = rs.metadata.annotations.unwrap();
    for (key, value) in [("revision", "1"), ("desired-replicas", "3"), ("max-replicas", "4")] {
        assert_eq!(annotations[&format!("deployment.kubernetes.io/{key}")], value);
    }
    assert_eq!(annotations["note"], "kept");
    assert_eq!(web(&world).metadata.annotations.unwrap()["deployment.kubernetes.io/revision"], "1");
    let created = ("True".into(), "NewReplicaSetCreated".into(), format!("Created new replica set \"{name}\""));
    assert_eq!(condition(&world, "Progressing"), created);
    assert_eq!(condition(&world, "Available").1, "MinimumReplicasUnavailable");
    live(&world, "");
    let done = ("True".into(), "NewReplicaSetAvailable".into(), format!("ReplicaSet \"{name}\" has successfully progressed."));
    assert_eq!(condition(&world, "Progressing"), done);
    let available = ("True".into(), "MinimumReplicasAvailable".into(), "Deployment has minimum availability.".into());
    assert_eq!(condition(&world, "Available"), available);
    let s = status(&world);
    assert_eq!((s.replicas, s.updated_replicas, s.ready_replicas, s.available_replicas), (Some(3), Some(3), Some(3), Some(3)));
    assert_eq!((s.unavailable_replicas, s.observed_generation, s.terminating_replicas), (None, Some(1), Some(0)));
    assert_eq!(undone(&world, &both()), Vec::<String>::new());
}

#[test]
fn a_rolling_update_keeps_within_surge_and_availability_at_every_step() {
    for (replicas, surge, unavailable) in
        [(4, json!("25%"), json!("25%")), (3, json!(1), json!(0)), (5, json!(0), json!(2)), (1, json!("25%"), json!("25%"))]
    {
        let world = World::new();
        world.put::<Deployment>(deployment(replicas, "v1", rolling(surge.clone(), unavailable.clone())));
        live(&world, "");
        set_image(&world, "v2");
        let (max, min) = match (surge.as_str(), unavailable.as_str()) {
            (Some(_), Some(_)) => (replicas + (replicas + 3) / 4, replicas - replicas / 4),
            _ => (replicas + surge.as_i64().unwrap() as i32, replicas - unavailable.as_i64().unwrap() as i32),
        };
        for _ in 0..40 {
            follow(&world, &both(), |_| false);
            let active = world.all::<Pod>().iter().filter(|p| crate::controllers::pods::is_active(p)).count() as i32;
            let ready = world
                .all::<Pod>()
                .iter()
                .filter(|p| crate::controllers::pods::is_active(p) && crate::controllers::pods::is_ready(p))
                .count() as i32;
            assert!(active <= max && ready >= min, "{replicas} {surge} {unavailable}: {active} pods, {ready} ready");
            kubelet(&world, "");
        }
        assert_eq!(sizes(&world), [("v1".to_owned(), 0), ("v2".to_owned(), replicas)]);
        assert_eq!(condition(&world, "Progressing").1, "NewReplicaSetAvailable");
        assert_eq!(web(&world).metadata.annotations.unwrap()["deployment.kubernetes.io/revision"], "2");
    }
}

#[test]
fn a_broken_rollout_stops_fails_by_its_deadline_and_is_undone_by_the_old_template() {
    let world = World::new();
    world.put::<Deployment>(deployment(4, "v1", rolling(json!("25%"), json!("25%"))));
    live(&world, "");
    set_image(&world, "broken");
    live(&world, "broken");
    assert_eq!(sizes(&world), [("broken".to_owned(), 2), ("v1".to_owned(), 3)]);
    let key = Key::new::<Deployment>("a", "web");
    assert_eq!(run_key(&world, &Deployments, &key).1.unwrap().as_second(), world.now().as_second() + 601);
    world.pass(602);
    settle(&world, &Deployments);
    let set = world.all::<ReplicaSet>().into_iter().find(|rs| image(rs) == "broken").unwrap().metadata.name.unwrap();
    let stuck = ("False".into(), "ProgressDeadlineExceeded".into(), format!("ReplicaSet \"{set}\" has timed out progressing."));
    assert_eq!(condition(&world, "Progressing"), stuck);
    set_image(&world, "v1");
    live(&world, "broken");
    assert_eq!(sizes(&world), [("broken".to_owned(), 0), ("v1".to_owned(), 4)]);
    let back = world.all::<ReplicaSet>().into_iter().find(|rs| image(rs) == "v1").unwrap().metadata.annotations.unwrap();
    assert_eq!(back["deployment.kubernetes.io/revision"], "3");
    assert_eq!(back["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(condition(&world, "Progressing").1, "NewReplicaSetAvailable");
}

#[test]
fn recreate_waits_until_the_last_old_pod_is_gone() {
    let world = World::new();
    world.put::<Deployment>(deployment(2, "v1", json!({"type": "Recreate"})));
    live(&world, "");
    set_image(&world, "v2");
    follow(&world, &both(), |_| false);
    assert_eq!(sizes(&world), [("v1".to_owned(), 0)]);
    assert!(world.all::<Pod>().iter().all(|p| p.metadata.deletion_timestamp.is_some()));
    kubelet(&world, "");
    follow(&world, &both(), |_| false);
    assert_eq!(sizes(&world), [("v1".to_owned(), 0), ("v2".to_owned(), 2)]);
    live(&world, "");
    assert_eq!(condition(&world, "Progressing").1, "NewReplicaSetAvailable");
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_shared_in_proportion() {
    let world = World::new();
    world.put::<Deployment>(deployment(10, "v1", rolling(json!(3), json!(2))));
    live(&world, "");
    set_image(&world, "broken");
    live(&world, "broken");
    assert_eq!(sizes(&world), [("broken".to_owned(), 5), ("v1".to_owned(), 8)]);
    world.edit::<Deployment>("a", "web", |d| d["spec"]["replicas"] = json!(30));
    follow(&world, &both(), |_| false);
    // As the conformance test "should support proportional scaling" has it.
    assert_eq!(sizes(&world), [("broken".to_owned(), 13), ("v1".to_owned(), 20)]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let world = World::new();
    world.put::<Deployment>(deployment(2, "v1", rolling(json!(1), json!(0))));
    live(&world, "");
    world.edit::<Deployment>("a", "web", |d| d["spec"]["paused"] = json!(true));
    set_image(&world, "v2");
    world.edit::<Deployment>("a", "web", |d| d["spec"]["replicas"] = json!(4));
    live(&world, "");
    assert_eq!(sizes(&world), [("v1".to_owned(), 4)]);
    assert_eq!(condition(&world, "Progressing"), ("Unknown".into(), "DeploymentPaused".into(), "Deployment is paused".into()));
    world.edit::<Deployment>("a", "web", |d| d["spec"]["paused"] = json!(false));
    live(&world, "");
    assert_eq!(sizes(&world), [("v1".to_owned(), 0), ("v2".to_owned(), 4)]);
}

#[test]
fn old_sets_beyond_the_history_limit_are_deleted() {
    let world = World::new();
    let mut d = deployment(1, "v0", rolling(json!(1), json!(0)));
    d["spec"]["revisionHistoryLimit"] = json!(2);
    world.put::<Deployment>(d);
    for i in 1..6 {
        live(&world, "");
        set_image(&world, &format!("v{i}"));
    }
    live(&world, "");
    let images: Vec<String> = sizes(&world).into_iter().map(|(image, _)| image).collect();
    assert_eq!(images, ["v3", "v4", "v5"]);
}

#[test]
fn a_name_that_is_taken_by_another_set_leads_to_another_hash() {
    let world = World::new();
    world.put::<Deployment>(deployment(1, "v1", rolling(json!(1), json!(0))));
    follow(&world, &[&Deployments], |_| false);
    let name = world.all::<ReplicaSet>()[0].metadata.name.clone().unwrap();
    world.edit::<ReplicaSet>("a", &name, |rs| {
        rs["metadata"]["ownerReferences"] = json!([]);
        rs["metadata"]["labels"] = json!({"other": "set"});
    });
    follow(&world, &[&Deployments], |_| false);
    settle(&world, &Deployments);
    assert_eq!(status(&world).collision_count, Some(1));
    assert_eq!(world.all::<ReplicaSet>().len(), 2);
}

#[test]
fn sets_that_match_are_adopted_and_their_pods_stay() {
    let world = World::new();
    let mut rs = json!({"metadata": {"name": "old", "namespace": "a", "labels": {"app": "web"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}}});
    rs["spec"]["template"] = deployment(1, "v1", json!({}))["spec"]["template"].clone();
    world.put::<ReplicaSet>(rs);
    live(&world, "");
    let pod = world.all::<Pod>()[0].metadata.uid.clone();
    world.put::<Deployment>(deployment(1, "v1", rolling(json!(1), json!(0))));
    live(&world, "");
    assert_eq!(sizes(&world), [("v1".to_owned(), 1)]);
    assert_eq!(world.all::<Pod>()[0].metadata.uid, pod);
    assert_eq!(condition(&world, "Progressing").1, "NewReplicaSetAvailable");
}

/// One scripted life of a Deployment; `disturb` is asked before each stage.
fn story(mut disturb: impl FnMut(&World, usize)) -> Vec<(String, i32)> {
    let world: Arc<World> = World::new();
    world.put::<Deployment>(deployment(3, "v1", rolling(json!(1), json!(1))));
    for stage in 0..12 {
        disturb(&world, stage);
        match stage {
            4 => set_image(&world, "v2"),
            8 => world.edit::<Deployment>("a", "web", |d| d["spec"]["replicas"] = json!(5)),
            _ => {}
        }
        follow(&world, &both(), |_| false);
        kubelet(&world, "");
    }
    live(&world, "");
    assert_eq!(undone(&world, &both()), Vec::<String>::new());
    sizes(&world)
}

#[test]
fn a_crash_after_any_write_changes_nothing_of_where_it_ends() {
    let expected = story(|_, _| {});
    assert_eq!(expected, [("v1".to_owned(), 0), ("v2".to_owned(), 5)]);
    for stage in [0, 1, 4, 5, 6, 8] {
        for writes in 0..6 {
            let end = story(|world, at| {
                if at != stage {
                    return;
                }
                // The process dies after some writes, and its successor looks at everything anew.
                world.burn_after(writes);
                let keys: Vec<_> = both()
                    .iter()
                    .flat_map(|c| c.all_keys(&crate::watch::Feed::snapshot(world)).into_iter().map(move |k| (*c, k)))
                    .collect();
                for (controller, key) in keys {
                    run_key(world, controller, &key);
                }
                world.burn_after(usize::MAX);
                both().iter().for_each(|c| drop(settle(world, *c)));
            });
            assert_eq!(end, expected, "crash after {writes} writes in stage {stage}");
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(40))]
    #[test]
    fn lost_events_are_made_good_by_looking_at_everything(seed in proptest::collection::vec(proptest::bool::weighted(0.2), 200)) {
        let world = World::new();
        world.put::<Deployment>(deployment(3, "v1", rolling(json!(1), json!(1))));
        let mut chance = seed.iter().cycle().copied();
        for stage in 0..8 {
            if stage == 3 {
                set_image(&world, "v2");
            }
            follow(&world, &both(), |_| chance.next().unwrap_or(false));
            kubelet(&world, "");
        }
        for _ in 0..20 {
            both().iter().for_each(|c| drop(settle(&world, *c)));
            kubelet(&world, "");
        }
        // The old set may never have come about.
        let filled: Vec<_> = sizes(&world).into_iter().filter(|(_, n)| *n > 0).collect();
        proptest::prop_assert_eq!(filled, [("v2".to_owned(), 3)]);
        proptest::prop_assert!(undone(&world, &both()).is_empty());
    }
}

#[test]
fn what_was_refused_is_said_in_the_status() {
    let world = World::new();
    world.put::<Deployment>(deployment(1, "v1", rolling(json!(1), json!(0))));
    let plan = Deployments.reconcile(&crate::watch::Feed::snapshot(&*world), &Key::new::<Deployment>("a", "web"), world.now());
    world.burn_after(0);
    let outcome = now_or_never(crate::controllers::driver::execute::execute(&*world, plan));
    assert!(outcome.error.is_some());
    assert!(outcome.happened[0].message.starts_with("Failed to create new replica set \"web-"), "{:?}", outcome.happened);
}
