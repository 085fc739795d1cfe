//! Desired and reported state: generation, status, scale, grace periods, server-side apply.

use super::*;
use crate::kinds::{Deployment, Pod};
use crate::meta::Reason;

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
}

fn web() -> Target {
    Target::object::<Deployment>("ns", "web")
}

async fn patch(cluster: &Cluster, target: &Target, kind: PatchKind, body: Value, options: &WriteOptions) -> Result<Value, Status> {
    match cluster.verbs.patch(target, kind, bytes(&body), options).await? {
        Answer::Written(w) => Ok(value(&w.object)),
        Answer::Json { body, .. } => Ok(serde_json::from_slice(&body).unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_generation_counts_the_spec() {
    let cluster = Cluster::new().await;
    let made = value(&cluster.create::<Deployment>("ns", deployment()).await.unwrap());
    assert_eq!(made["metadata"]["generation"], 1);
    let labelled = value(&cluster.merge(&web(), json!({"metadata": {"labels": {"a": "b"}}, "status": {"replicas": 7}})).await.unwrap());
    assert_eq!((&labelled["metadata"]["generation"], &labelled["status"]["replicas"]), (&json!(1), &Value::Null));
    let scaled = value(&cluster.merge(&web(), json!({"spec": {"replicas": 3}})).await.unwrap());
    assert_eq!(scaled["metadata"]["generation"], 2);
    let status = json!({"status": {"replicas": 3, "observedGeneration": 2}, "spec": {"replicas": 9}});
    let reported = value(&cluster.merge(&web().sub("status"), status).await.unwrap());
    assert_eq!(
        (&reported["metadata"]["generation"], &reported["spec"]["replicas"], &reported["status"]["replicas"]),
        (&json!(2), &json!(3), &json!(3))
    );
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i:2"}]}}}});
    let rolled = patch(&cluster, &web(), PatchKind::Strategic, image, &options()).await.unwrap();
    assert_eq!(
        (&rolled["metadata"]["generation"], &rolled["spec"]["template"]["spec"]["containers"][0]["image"]),
        (&json!(3), &json!("i:2"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_is_read_and_written() {
    let cluster = Cluster::new().await;
    cluster.create::<Deployment>("ns", deployment()).await.unwrap();
    let mut scale: Value = serde_json::from_slice(&cluster.verbs.get_scale(&web()).await.unwrap()).unwrap();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!("Scale"), &json!(2), &json!("app=web")));
    scale["spec"]["replicas"] = json!(4);
    let Answer::Json { body, status: 200, .. } = cluster.verbs.update(&web().sub("scale"), bytes(&scale), &options()).await.unwrap() else {
        panic!("a Scale is answered with a Scale")
    };
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["spec"]["replicas"], 4);
    let stale = cluster.verbs.update(&web().sub("scale"), bytes(&scale), &options()).await.unwrap_err();
    assert!(stale.is(Reason::Conflict));
    let patched = patch(&cluster, &web().sub("scale"), PatchKind::Merge, json!({"spec": {"replicas": 5}}), &options()).await.unwrap();
    assert_eq!(patched["spec"]["replicas"], 5);
    assert_eq!(value(&cluster.get(&web()).await.unwrap())["metadata"]["generation"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_on_a_node_has_its_grace_period() {
    let cluster = Cluster::new().await;
    let body = |node: &str| {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "terminationGracePeriodSeconds": 30,
        "containers": [{"name": "c", "image": "i"}]}})
    };
    let pod = Target::object::<Pod>("ns", "p");
    let grace = |seconds| DeleteOptions { grace_period_seconds: seconds, ..DeleteOptions::default() };
    cluster.create::<Pod>("ns", body("")).await.unwrap();
    assert!(matches!(cluster.delete(&pod, grace(None)).await.unwrap(), Deleted::Gone(_)), "on no node there is nothing to wait for");
    cluster.create::<Pod>("ns", body("n1")).await.unwrap();
    let Deleted::Pending(ending) = cluster.delete(&pod, grace(None)).await.unwrap() else { panic!("it is gone") };
    assert_eq!((ending.meta().deletion_grace_period_seconds, ending.meta().generation), (Some(30), Some(2)));
    let Deleted::Pending(again) = cluster.delete(&pod, grace(Some(60))).await.unwrap() else { panic!("it is gone") };
    assert_eq!(again.revision(), ending.revision());
    let Deleted::Pending(sooner) = cluster.delete(&pod, grace(Some(5))).await.unwrap() else { panic!("it is gone") };
    assert_eq!(sooner.meta().deletion_grace_period_seconds, Some(5));
    assert!(sooner.meta().deletion_timestamp < ending.meta().deletion_timestamp);
    assert!(matches!(cluster.delete(&pod, grace(Some(0))).await.unwrap(), Deleted::Gone(_)));
    assert!(cluster.get(&pod).await.unwrap_err().is(Reason::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn appliers_own_what_they_apply() {
    let cluster = Cluster::new().await;
    let of = |name: &str| WriteOptions { field_manager: name.into(), ..options() };
    let made = patch(&cluster, &web(), PatchKind::Apply, deployment(), &of("one")).await.unwrap();
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "one");
    let same = patch(&cluster, &web(), PatchKind::Apply, deployment(), &of("one")).await.unwrap();
    assert_eq!(same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let mut other = deployment();
    other["spec"]["replicas"] = json!(5);
    let conflict = patch(&cluster, &web(), PatchKind::Apply, other.clone(), &of("two")).await.unwrap_err();
    assert_eq!((conflict.code, conflict.message.as_str()), (409, "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas"));
    let forced = WriteOptions { force: true, ..of("two") };
    assert_eq!(patch(&cluster, &web(), PatchKind::Apply, other, &forced).await.unwrap()["spec"]["replicas"], 5);
    let by_hand = patch(&cluster, &web(), PatchKind::Merge, json!({"spec": {"replicas": 6}}), &of("hand")).await.unwrap();
    let managers: Vec<&str> =
        by_hand["metadata"]["managedFields"].as_array().unwrap().iter().map(|m| m["manager"].as_str().unwrap()).collect();
    assert!(managers.contains(&"hand"), "{managers:?}");
    let back = patch(&cluster, &web(), PatchKind::Apply, deployment(), &of("one")).await.unwrap_err();
    assert!(back.message.contains("conflict with \"hand\" using apps/v1: .spec.replicas"), "{back}");
    let mut unknown = deployment();
    unknown["spec"]["foo"] = json!(1);
    assert_eq!(patch(&cluster, &web(), PatchKind::Apply, unknown, &of("one")).await.unwrap_err().code, 500);
}
