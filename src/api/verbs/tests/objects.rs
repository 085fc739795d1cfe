//! One object: create, update, patch, delete.

use super::*;
use crate::kinds::{Lease, Service};
use crate::meta::Reason;
use std::collections::HashSet;

#[tokio::test(flavor = "multi_thread")]
async fn an_object_lives() {
    let cluster = Cluster::new().await;
    let made = cluster.create::<ConfigMap>("ns", json!({"metadata": {"name": "a", "uid": "mine"}, "data": {"k": "v"}})).await.unwrap();
    let meta = made.meta();
    assert!(meta.uid.as_deref().is_some_and(|uid| uid.len() == 36) && meta.creation_timestamp.is_some() && meta.generation.is_none());
    assert_eq!((meta.namespace.as_deref(), made.revision() > 0), (Some("ns"), true));
    assert_eq!(value(&made)["apiVersion"], "v1");
    let again = cluster.create::<ConfigMap>("ns", json!({"metadata": {"name": "a"}})).await.unwrap_err();
    assert_eq!((again.code, again.message.as_str()), (409, "configmaps \"a\" already exists"));
    assert!(Arc::ptr_eq(&cluster.get(&config_map("a")).await.unwrap(), &made));
    let Deleted::Gone(gone) = cluster.delete(&config_map("a"), DeleteOptions::default()).await.unwrap() else { panic!("it stays") };
    assert_eq!(gone.uid(), made.uid());
    assert_eq!(cluster.get(&config_map("a")).await.unwrap_err().message, "configmaps \"a\" not found");
    assert!(cluster.delete(&config_map("a"), DeleteOptions::default()).await.unwrap_err().is(Reason::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_created_is_not() {
    let cluster = Cluster::new().await;
    for (namespace, body, code, text) in [
        ("nowhere", json!({"metadata": {"name": "a"}}), 404, "namespaces \"nowhere\" not found"),
        (
            "ns",
            json!({"metadata": {"name": "A_b"}}),
            422,
            "ConfigMap \"A_b\" is invalid: metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123",
        ),
        ("ns", json!({"metadata": {}}), 422, "metadata.name: Required value: name or generateName is required"),
        ("ns", json!({"metadata": {"name": "a", "namespace": "other"}}), 400, "does not match the namespace sent on the request"),
        (
            "ns",
            json!({"metadata": {"name": "a", "resourceVersion": "1"}}),
            500,
            "resourceVersion should not be set on objects to be created",
        ),
        ("ns", json!({"metadata": {"name": "a"}, "x": 1}), 400, "strict decoding error: unknown field \"x\""),
        ("ns", json!({"metadata": {"name": "a"}, "data": {"": "x"}}), 422, "data[]: Invalid value"),
    ] {
        let refused = cluster.create::<ConfigMap>(namespace, body.clone()).await.unwrap_err();
        assert_eq!(refused.code, code, "{body}: {refused}");
        assert!(refused.message.contains(text), "{body}: {refused}");
    }
    assert!(cluster.get(&config_map("a")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_generated() {
    let cluster = Cluster::new().await;
    let mut names = HashSet::new();
    for _ in 0..20 {
        let made = cluster.create::<ConfigMap>("ns", json!({"metadata": {"generateName": "web-"}})).await.unwrap();
        names.insert(made.meta().name.clone().unwrap());
    }
    assert!(names.len() == 20 && names.iter().all(|n| n.starts_with("web-") && n.len() == 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_writes_nothing() {
    let cluster = Cluster::new().await;
    let dry = WriteOptions { dry_run: true, ..options() };
    let made = cluster.create_with::<ConfigMap>("ns", json!({"metadata": {"name": "a"}}), &dry).await.unwrap();
    assert!(made.created && made.object.meta().uid.is_some() && made.object.meta().resource_version.is_none());
    assert!(cluster.get(&config_map("a")).await.unwrap_err().is(Reason::NotFound));
    let real = cluster.create::<ConfigMap>("ns", json!({"metadata": {"name": "a"}})).await.unwrap();
    let twice = cluster.create_with::<ConfigMap>("ns", json!({"metadata": {"name": "a"}}), &dry).await.unwrap_err();
    assert!(twice.is(Reason::AlreadyExists));
    let mut body = value(&real);
    body["data"] = json!({"k": "v"});
    let answer = written(cluster.verbs.update(&config_map("a"), bytes(&body), &dry).await.unwrap()).unwrap();
    assert_eq!(value(&answer.object)["data"]["k"], "v");
    let request = DeleteRequest { dry_run: true, ..DeleteRequest::default() };
    assert!(matches!(cluster.verbs.delete(&config_map("a"), &request).await.unwrap(), Deleted::Gone(_)));
    assert_eq!(cluster.get(&config_map("a")).await.unwrap().revision(), real.revision());
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_are_guarded() {
    let cluster = Cluster::new().await;
    let made = cluster.create::<ConfigMap>("ns", json!({"metadata": {"name": "a"}})).await.unwrap();
    let mut body = value(&made);
    assert_eq!(cluster.update(&config_map("a"), &body).await.unwrap().revision(), made.revision(), "nothing has changed");
    body["data"] = json!({"k": "1"});
    let second = cluster.update(&config_map("a"), &body).await.unwrap();
    assert!(second.revision() > made.revision());
    body["data"] = json!({"k": "2"});
    let stale = cluster.update(&config_map("a"), &body).await.unwrap_err();
    let want = "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again";
    assert_eq!((stale.code, stale.message.as_str()), (409, want));
    body["metadata"]["resourceVersion"].take();
    assert_eq!(value(&cluster.update(&config_map("a"), &body).await.unwrap())["data"]["k"], "2");
    body["metadata"]["uid"] = json!("other");
    assert!(cluster.update(&config_map("a"), &body).await.unwrap_err().message.contains("Precondition failed: UID in precondition: other"));
    let named = cluster.update(&config_map("b"), &body).await.unwrap_err();
    assert_eq!(named.message, "the name of the object (a) does not match the name on the URL (b)");
    let absent = cluster.update(&config_map("b"), &json!({"metadata": {"name": "b"}})).await.unwrap_err();
    assert!(absent.is(Reason::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_made_by_put_and_need_a_version() {
    let cluster = Cluster::new().await;
    let lease = Target::object::<Lease>("ns", "a");
    let body = json!({"metadata": {"name": "a"}, "spec": {"holderIdentity": "me"}});
    cluster.update(&lease, &body).await.unwrap();
    let refused = cluster.update(&lease, &body).await.unwrap_err();
    assert!(refused.message.contains("metadata.resourceVersion: Invalid value: \"\": must be specified for an update"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_that_race_all_count() {
    let cluster = Arc::new(Cluster::new().await);
    cluster.create::<ConfigMap>("ns", json!({"metadata": {"name": "a"}})).await.unwrap();
    let patches = (0..12).map(|i| {
        let cluster = cluster.clone();
        tokio::spawn(async move { cluster.merge(&config_map("a"), json!({"data": {format!("k{i}"): "v"}})).await })
    });
    for patch in futures::future::join_all(patches).await {
        patch.unwrap().unwrap();
    }
    assert_eq!(value(&cluster.get(&config_map("a")).await.unwrap())["data"].as_object().unwrap().len(), 12);
    let refused = cluster.merge(&config_map("a"), json!({"metadata": {"resourceVersion": "1"}})).await.unwrap_err();
    assert!(refused.is(Reason::Conflict));
    let misfit = cluster.merge(&config_map("a"), json!({"nonsense": 1})).await.unwrap_err();
    assert!(misfit.code == 422 && misfit.message.contains("strict decoding error: unknown field \"nonsense\""), "{misfit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_keep_an_object() {
    let cluster = Cluster::new().await;
    cluster.create::<ConfigMap>("ns", json!({"metadata": {"name": "a", "finalizers": ["example.com/x"]}})).await.unwrap();
    let Deleted::Pending(kept) = cluster.delete(&config_map("a"), DeleteOptions::default()).await.unwrap() else { panic!("it is gone") };
    assert!(kept.meta().deletion_timestamp.is_some());
    let Deleted::Pending(again) = cluster.delete(&config_map("a"), DeleteOptions::default()).await.unwrap() else { panic!("it is gone") };
    assert_eq!(again.revision(), kept.revision());
    let added = cluster.merge(&config_map("a"), json!({"metadata": {"finalizers": ["example.com/x", "example.com/y"]}})).await.unwrap_err();
    assert!(added.message.contains("no new finalizers can be added if the object is being deleted"), "{added}");
    cluster.merge(&config_map("a"), json!({"metadata": {"finalizers": null}})).await.unwrap();
    assert!(cluster.get(&config_map("a")).await.unwrap_err().is(Reason::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_have_preconditions() {
    let cluster = Cluster::new().await;
    let made = cluster.create::<ConfigMap>("ns", json!({"metadata": {"name": "a"}})).await.unwrap();
    let uid = DeleteOptions { uid: Some("x".into()), ..DeleteOptions::default() };
    assert!(cluster.delete(&config_map("a"), uid).await.unwrap_err().message.contains("the UID in the precondition (x)"));
    let version = DeleteOptions { resource_version: Some("1".into()), ..DeleteOptions::default() };
    assert!(cluster.delete(&config_map("a"), version).await.unwrap_err().is(Reason::Conflict));
    let right =
        DeleteOptions { uid: Some(made.uid().into()), resource_version: Some(made.revision().to_string()), ..DeleteOptions::default() };
    assert!(matches!(cluster.delete(&config_map("a"), right).await.unwrap(), Deleted::Gone(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_ends_through_finalize() {
    let cluster = Cluster::new().await;
    let target = Target::object::<Namespace>("", "ns");
    let Deleted::Pending(ending) = cluster.delete(&target, DeleteOptions::default()).await.unwrap() else { panic!("it is gone") };
    assert_eq!(value(&ending)["status"]["phase"], "Terminating");
    let refused = cluster.create::<ConfigMap>("ns", json!({"metadata": {"name": "a"}})).await.unwrap_err();
    let want = "configmaps \"a\" is forbidden: unable to create new content in namespace ns because it is being terminated";
    assert_eq!((refused.code, refused.message.as_str()), (403, want));
    assert_eq!(refused.details.unwrap().causes[0].reason, "NamespaceTerminating");
    let mut body = value(&ending);
    body["spec"]["finalizers"] = json!([]);
    cluster.update(&target.clone().sub("finalize"), &body).await.unwrap();
    assert!(cluster.get(&target).await.unwrap_err().is(Reason::NotFound));
    let immortal = Target::object::<Namespace>("", "default");
    assert!(cluster.delete(&immortal, DeleteOptions::default()).await.unwrap_err().message.contains("this namespace may not be deleted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses_of_their_own() {
    let cluster = Arc::new(Cluster::new().await);
    let creates = (0..20).map(|i| {
        let cluster = cluster.clone();
        let body = json!({"metadata": {"name": format!("s{i}")}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        tokio::spawn(async move { cluster.create::<Service>("ns", body).await })
    });
    let (mut addresses, mut ports) = (HashSet::new(), HashSet::new());
    for made in futures::future::join_all(creates).await {
        let service = value(&made.unwrap().unwrap());
        addresses.insert(service["spec"]["clusterIP"].as_str().unwrap().to_owned());
        ports.insert(service["spec"]["ports"][0]["nodePort"].as_i64().unwrap());
    }
    assert_eq!((addresses.len(), ports.len()), (20, 20));
    let taken = addresses.iter().next().unwrap();
    let refused =
        cluster.create::<Service>("ns", json!({"metadata": {"name": "t"}, "spec": {"clusterIP": taken, "ports": [{"port": 1}]}})).await;
    assert!(refused.unwrap_err().message.contains("provided IP is already allocated"));
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_survive_a_restart() {
    let cluster = Cluster::new().await;
    let made = cluster.create::<ConfigMap>("ns", json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await.unwrap();
    let json = made.json().clone();
    drop(made);
    let cluster = cluster.restarted().await;
    assert_eq!(cluster.get(&config_map("a")).await.unwrap().json(), &json);
}
