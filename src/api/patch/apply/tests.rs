use super::*;
use proptest::prelude::*;

fn shape() -> Shape {
    Shape::of_kind("apps", "v1", "Deployment")
}

fn manager(name: &str) -> Manager<'_> {
    Manager { name, api_version: "apps/v1", subresource: "", now: "2026-01-01T00:00:00Z" }
}

fn config() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"app": "d"}},
        "spec": {"replicas": 3, "template": {"spec": {"containers": [
            {"name": "a", "image": "a:1", "ports": [{"containerPort": 80}], "args": ["x", "y"]}]}}}})
}

fn applied(live: Option<&Value>, config: Value, name: &str, force: bool) -> Result<Value, ApplyError> {
    apply(live, config, shape(), &manager(name), force, &["status"])
}

#[test]
fn a_first_apply_owns_what_it_says() {
    let got = applied(None, config(), "me", false).unwrap();
    let entry = &got["metadata"]["managedFields"][0];
    assert_eq!((&entry["manager"], &entry["operation"], &entry["apiVersion"]), (&json!("me"), &json!("Apply"), &json!("apps/v1")));
    let want = json!({"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
        "k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:image": {}, "f:args": {},
            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}});
    assert_eq!(entry["fieldsV1"], want);
}

#[test]
fn applying_again_changes_nothing() {
    let first = applied(None, config(), "me", false).unwrap();
    let later = Manager { now: "2027-01-01T00:00:00Z", ..manager("me") };
    assert_eq!(apply(Some(&first), config(), shape(), &later, false, &["status"]).unwrap(), first);
}

#[test]
fn what_is_no_longer_applied_goes() {
    let mut first = applied(None, config(), "me", false).unwrap();
    first["spec"]["template"]["spec"]["containers"][0]["terminationMessagePath"] = json!("/default");
    let mut second = config();
    second["metadata"].as_object_mut().unwrap().remove("labels");
    second["spec"]["template"]["spec"]["containers"][0].as_object_mut().unwrap().remove("args");
    let got = applied(Some(&first), second, "me", false).unwrap();
    assert!(got["metadata"].get("labels").is_none());
    let container = &got["spec"]["template"]["spec"]["containers"][0];
    assert!(container.get("args").is_none());
    assert_eq!(container["terminationMessagePath"], "/default");
}

#[test]
fn a_conflict_names_manager_and_field() {
    let first = applied(None, config(), "me", false).unwrap();
    let mut scaled = first.clone();
    scaled["spec"]["replicas"] = json!(5);
    track(&first, &mut scaled, shape(), &Manager { subresource: "scale", ..manager("kubectl") });
    let conflict = applied(Some(&scaled), config(), "me", false).unwrap_err();
    assert_eq!(
        conflict.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas"
    );
    let status = Status::from(conflict);
    assert_eq!((status.code, status.details.unwrap().causes[0].field.as_str()), (409, ".spec.replicas"));
    let forced = applied(Some(&scaled), config(), "me", true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 3);
    assert_eq!(forced["metadata"]["managedFields"].as_array().unwrap().len(), 1);
    // Without the field there is nothing to fight about: it stays the other's.
    let mut without = config();
    without["spec"].as_object_mut().unwrap().remove("replicas");
    let shared = applied(Some(&scaled), without, "me", false).unwrap();
    assert_eq!(shared["spec"]["replicas"], 5);
    assert_eq!(shared["metadata"]["managedFields"].as_array().unwrap().len(), 2);
}

#[test]
fn two_appliers_share_a_list_and_agree_on_a_value() {
    let first = applied(None, config(), "a", false).unwrap();
    let other = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "b", "image": "b:1"}]}}}});
    let both = applied(Some(&first), other.clone(), "b", false).unwrap();
    let names = |o: &Value| -> Vec<String> {
        let list = o["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&both), ["a", "b"]);
    let mut less = other;
    less["spec"].as_object_mut().unwrap().remove("template");
    let back = applied(Some(&both), less, "b", false).unwrap();
    assert_eq!(names(&back), ["a"]);
    assert_eq!(back["spec"]["replicas"], 3);
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let first = applied(None, config(), "a", false).unwrap();
    let mut other = config();
    other["spec"]["replicas"] = json!(1);
    other["spec"]["template"]["spec"]["containers"][0]["image"] = json!("a:2");
    let text = applied(Some(&first), other, "b", false).unwrap_err().to_string();
    assert_eq!(
        text,
        "Apply failed with 2 conflicts: conflicts with \"a\":\n- .spec.replicas\n- .spec.template.spec.containers[name=\"a\"].image"
    );
}

#[test]
fn an_object_that_nobody_applied_belongs_to_before() {
    let mut live = config();
    live["metadata"]["uid"] = json!("u");
    let conflict = {
        let mut other = config();
        other["spec"]["replicas"] = json!(1);
        applied(Some(&live), other, "me", false).unwrap_err()
    };
    assert!(conflict.to_string().contains("conflict with \"before-first-apply\" using apps/v1: .spec.replicas"), "{conflict}");
    let same = applied(Some(&live), config(), "me", false).unwrap();
    assert_eq!(same["metadata"]["managedFields"].as_array().unwrap().len(), 2);
}

#[test]
fn kubectl_takes_over_what_it_applied_from_the_client() {
    let mut live = config();
    live["metadata"]["annotations"] = json!({LAST_APPLIED: config().to_string()});
    let mut other = config();
    other["spec"]["replicas"] = json!(1);
    assert_eq!(applied(Some(&live), other.clone(), "kubectl", false).unwrap()["spec"]["replicas"], 1);
    assert!(applied(Some(&live), other, "me", false).is_err());
}

#[test]
fn tracking_begins_with_the_first_apply_and_can_be_given_up() {
    let (old, mut new) = (config(), config());
    new["spec"]["replicas"] = json!(9);
    track(&old, &mut new, shape(), &manager("kubectl"));
    assert!(new["metadata"].get("managedFields").is_none());
    let first = applied(None, config(), "me", false).unwrap();
    let mut changed = first.clone();
    changed["metadata"].as_object_mut().unwrap().remove("managedFields");
    changed["spec"]["paused"] = json!(true);
    track(&first, &mut changed, shape(), &manager("kubectl"));
    let entries = changed["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries[1]["fieldsV1"], json!({"f:spec": {"f:paused": {}}}));
    let mut reset = changed.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    track(&changed, &mut reset, shape(), &manager("kubectl"));
    assert!(reset["metadata"].get("managedFields").is_none());
}

#[test]
fn updates_are_capped() {
    let mut object = applied(None, config(), "me", false).unwrap();
    for i in 0..30 {
        let mut next = object.clone();
        next["metadata"]["labels"][format!("l{i}")] = json!("x");
        track(&object, &mut next, shape(), &manager(&format!("m{i:02}")));
        object = next;
    }
    let entries = managers::read(&object);
    assert_eq!(entries.iter().filter(|e| e.operation == UPDATE).count(), 10);
    let mut all = FieldSet::default();
    entries.iter().for_each(|e| all.union(&e.set));
    assert!(all.paths().contains(&".metadata.labels.l0".to_owned()));
}

#[test]
fn nonsense_is_refused() {
    let twice = json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}});
    assert_eq!(applied(None, twice, "me", false).unwrap_err().to_string(), "duplicate entries for key [name=\"a\"]");
    let managed = json!({"metadata": {"managedFields": [{"manager": "x"}]}});
    assert_eq!(applied(None, managed, "me", false).unwrap_err().to_string(), "metadata.managedFields must be nil");
    assert!(applied(None, json!([1]), "me", false).is_err());
}

fn document() -> impl Strategy<Value = Value> {
    let container = (0u8..4, 0u8..3, proptest::option::of(0u8..3)).prop_map(|(name, image, port)| {
        let mut out = json!({"name": format!("c{name}"), "image": format!("i{image}")});
        if let Some(port) = port {
            out["ports"] = json!([{"containerPort": port}]);
        }
        out
    });
    let containers = proptest::collection::vec(container, 0..4).prop_map(|mut list| {
        list.sort_by_key(|c| c["name"].to_string());
        list.dedup_by_key(|c| c["name"].to_string());
        list
    });
    let labels = proptest::collection::btree_map("[a-c]", "[xy]", 0..3);
    (labels, proptest::option::of(0u8..3), containers).prop_map(|(labels, replicas, containers)| {
        let mut out = json!({"metadata": {"name": "d", "labels": labels}, "spec": {"template": {"spec": {"containers": containers}}}});
        if let Some(replicas) = replicas {
            out["spec"]["replicas"] = json!(replicas);
        }
        out
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(proptest::test_runner::FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn sets_survive_their_json(document in document()) {
        let set = walk::set_of(&document, shape()).unwrap();
        prop_assert_eq!(FieldSet::from_json(&set.to_json()), set);
    }

    #[test]
    fn a_forced_apply_holds_and_repeats_without_change(a in document(), b in document(), c in document()) {
        let first = applied(None, a, "a", true).unwrap();
        let second = applied(Some(&first), b, "b", true).unwrap();
        let third = applied(Some(&second), c.clone(), "a", true).unwrap();
        let wanted = walk::set_of(&c, shape()).unwrap();
        let changes = walk::compare(Some(&c), Some(&third), shape());
        prop_assert!(wanted.intersection(&changes.modified).is_empty());
        prop_assert!(wanted.intersection(&changes.removed).is_empty());
        prop_assert_eq!(&applied(Some(&third), c, "a", false).unwrap(), &third);
    }

    #[test]
    fn what_one_applied_and_took_back_is_gone(a in document()) {
        let empty = json!({"metadata": {"name": "d"}});
        let first = applied(None, empty.clone(), "me", false).unwrap();
        let second = applied(Some(&first), a, "me", false).unwrap();
        let mut third = applied(Some(&second), empty.clone(), "me", false).unwrap();
        managers::remove(&mut third);
        prop_assert_eq!(third, empty);
    }
}
