//! Events of both groups are the same objects.

use super::*;
use crate::api::requests::{ListQuery, WatchQuery, Watched};
use crate::kinds::{Event, EventsEvent};
use crate::watch::keys;
use orchd_store::{KeyRange, RangeRequest};

fn core_event() -> Value {
    json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "ns"}, "reason": "Started",
        "message": "as said", "type": "Normal", "source": {"component": "test"}, "count": 1})
}

fn new_event() -> Value {
    json!({"metadata": {"name": "n", "labels": {"new": "yes"}}, "eventTime": "2026-01-02T03:04:05.000006Z", "reportingController": "example.com/c",
        "reportingInstance": "c-1", "action": "Do", "reason": "Done", "type": "Normal", "note": "as noted",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "ns"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_group_writes_the_other_reads() {
    let cluster = Cluster::new().await;
    let all = Target::collection::<EventsEvent>(Some("ns"));
    let mut events = cluster.verbs.watch(&all, WatchQuery::default()).await.unwrap();
    let made = cluster.create::<Event>("ns", core_event()).await.unwrap();
    let seen = value(&cluster.get(&Target::object::<EventsEvent>("ns", "e")).await.unwrap());
    assert_eq!(
        (&seen["apiVersion"], &seen["note"], &seen["regarding"]["name"]),
        (&json!("events.k8s.io/v1"), &json!("as said"), &json!("p"))
    );
    assert_eq!(seen["metadata"]["resourceVersion"], json!(made.revision().to_string()));
    assert!(matches!(events.recv().await, Some(Ok(Watched::Added(o))) if value(&o)["note"] == "as said"));
    cluster.create::<EventsEvent>("ns", new_event()).await.unwrap();
    let as_core = value(&cluster.get(&Target::object::<Event>("ns", "n")).await.unwrap());
    assert_eq!(
        (&as_core["apiVersion"], &as_core["message"], &as_core["involvedObject"]["kind"]),
        (&json!("v1"), &json!("as noted"), &json!("Pod"))
    );
    assert!(matches!(events.recv().await, Some(Ok(Watched::Added(o))) if o.key().name == "n"));
    let patched = cluster
        .merge(
            &Target::object::<EventsEvent>("ns", "n"),
            json!({"series": {"count": 2, "lastObservedTime": "2026-01-02T03:04:06.000000Z"}}),
        )
        .await
        .unwrap();
    assert_eq!((patched.resource().names().group, &value(&patched)["series"]["count"]), ("events.k8s.io", &json!(2)));
    assert!(matches!(events.recv().await, Some(Ok(Watched::Modified(_)))));
    let query = ListQuery { label_selector: "new=yes".into(), ..ListQuery::default() };
    assert_eq!(cluster.verbs.list(&all, &query).await.unwrap().items.len(), 1);
    let gone = cluster.verbs.delete_collection(&all, &query, &DeleteRequest::default()).await.unwrap();
    assert_eq!(gone.items.len(), 1);
    assert!(matches!(events.recv().await, Some(Ok(Watched::Deleted(o))) if o.resource().names().group == "events.k8s.io"));
    assert!(cluster.get(&Target::object::<Event>("ns", "n")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_hang_on_one_lease_and_other_objects_on_none() {
    let cluster = Cluster::new().await;
    cluster.create::<Event>("ns", core_event()).await.unwrap();
    let mut second = core_event();
    second["metadata"]["name"] = json!("f");
    cluster.create::<Event>("ns", second).await.unwrap();
    let range = RangeRequest::new(KeyRange::prefix(keys::ROOT));
    let kvs = cluster.store.range_local(&range).unwrap().kvs;
    let lease = |end: &[u8]| kvs.iter().find(|kv| kv.key.ends_with(end)).map(|kv| kv.lease);
    assert_eq!(lease(b"events/ns/e"), lease(b"events/ns/f"));
    assert!(lease(b"events/ns/e").is_some_and(|l| l != 0));
    assert_eq!(lease(b"namespaces/ns"), Some(0));
}
