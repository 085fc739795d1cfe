//! Watches: what comes, from where on, and what ends them.

use super::*;
use crate::api::requests::{WatchQuery, Watched};
use crate::meta::Reason;
use crate::watch::Feed;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;

type Events = Receiver<Result<Watched, Status>>;

async fn watch(cluster: &Cluster, query: WatchQuery) -> Events {
    cluster.verbs.watch(&Target::collection::<ConfigMap>(Some("ns")), query).await.unwrap()
}

async fn next(events: &mut Events) -> String {
    let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await.expect("an event comes");
    match event {
        None => "end".into(),
        Some(Err(status)) => format!("error {}", status.code),
        Some(Ok(Watched::Added(o))) => format!("added {}", o.key().name),
        Some(Ok(Watched::Modified(o))) => format!("modified {}", o.key().name),
        Some(Ok(Watched::Deleted(o))) => format!("deleted {} {}", o.key().name, o.meta().labels.as_ref().map_or("", |l| l["w"].as_str())),
        Some(Ok(Watched::Bookmark { initial_events_end, .. })) => format!("bookmark {initial_events_end}"),
    }
}

async fn make(cluster: &Cluster, namespace: &str, name: &str, label: &str) -> Arc<Object> {
    cluster.create::<ConfigMap>(namespace, json!({"metadata": {"name": name, "labels": {"w": label}}})).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_is_told_of_as_it_changes() {
    let cluster = Cluster::new().await;
    make(&cluster, "ns", "there", "a").await;
    let mut events = watch(&cluster, WatchQuery { label_selector: "w=a".into(), ..WatchQuery::default() }).await;
    assert_eq!(next(&mut events).await, "added there");
    make(&cluster, "ns", "x", "b").await;
    make(&cluster, "other", "x", "a").await;
    cluster.merge(&config_map("x"), json!({"metadata": {"labels": {"w": "a"}}})).await.unwrap();
    assert_eq!(next(&mut events).await, "added x");
    cluster.merge(&config_map("x"), json!({"data": {"k": "v"}})).await.unwrap();
    assert_eq!(next(&mut events).await, "modified x");
    let left = cluster.merge(&config_map("x"), json!({"metadata": {"labels": {"w": "c"}}})).await.unwrap();
    // It is told as it was when it still matched, at the revision at which it left.
    match events.recv().await {
        Some(Ok(Watched::Deleted(o))) => {
            assert_eq!((o.revision(), o.meta().labels.as_ref().unwrap()["w"].as_str()), (left.revision(), "a"));
        }
        other => panic!("{other:?}"),
    }
    cluster.merge(&config_map("x"), json!({"data": {"k": "w"}})).await.unwrap();
    cluster.delete(&config_map("there"), DeleteOptions::default()).await.unwrap();
    assert_eq!(next(&mut events).await, "deleted there a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_resumes_where_another_ended() {
    let cluster = Cluster::new().await;
    let first = make(&cluster, "ns", "a", "x").await;
    make(&cluster, "ns", "b", "x").await;
    cluster.delete(&config_map("a"), DeleteOptions::default()).await.unwrap();
    let from = |revision: i64| WatchQuery { resource_version: revision.to_string(), ..WatchQuery::default() };
    let mut events = watch(&cluster, from(first.revision())).await;
    make(&cluster, "ns", "c", "x").await;
    for want in ["added b", "deleted a x", "added c"] {
        assert_eq!(next(&mut events).await, want);
    }
    // Not even what is to come is told twice, or too early.
    let mut later = watch(&cluster, from(cluster.store.revision() + 1)).await;
    make(&cluster, "ns", "d", "x").await;
    make(&cluster, "ns", "e", "x").await;
    assert_eq!(next(&mut later).await, "added e");
    let revision = cluster.get(&config_map("e")).await.unwrap().revision();
    let cluster = cluster.restarted().await;
    let mut old = watch(&cluster, from(first.revision())).await;
    assert_eq!((next(&mut old).await, next(&mut old).await), ("error 410".into(), "end".into()));
    let mut new = watch(&cluster, from(revision)).await;
    make(&cluster, "ns", "f", "x").await;
    assert_eq!(next(&mut new).await, "added f");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_list_ends_its_beginning_with_a_bookmark() {
    let cluster = Cluster::new().await;
    make(&cluster, "ns", "a", "x").await;
    make(&cluster, "ns", "b", "x").await;
    let query = WatchQuery {
        send_initial_events: true,
        allow_bookmarks: true,
        resource_version_match: "NotOlderThan".into(),
        ..WatchQuery::default()
    };
    let mut events = watch(&cluster, query.clone()).await;
    make(&cluster, "ns", "c", "x").await;
    for want in ["added a", "added b", "bookmark true", "added c"] {
        assert_eq!(next(&mut events).await, want);
    }
    let bad = WatchQuery { resource_version_match: String::new(), ..query };
    let refused = cluster.verbs.watch(&Target::collection::<ConfigMap>(Some("ns")), bad).await.unwrap_err();
    assert!(refused.is(Reason::Invalid));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_watchers_see_the_same_order_and_slow_ones_are_ended() {
    let cluster = Cluster::new().await;
    let mut slow = watch(&cluster, WatchQuery::default()).await;
    let mut watchers = Vec::new();
    for _ in 0..50 {
        watchers.push(watch(&cluster, WatchQuery::default()).await);
    }
    assert_eq!(cluster.verbs.cache().watcher_count(), 51);
    make(&cluster, "ns", "a", "x").await;
    let readers = watchers.into_iter().map(|mut events| {
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            while revisions.len() < 1200 {
                match events.recv().await {
                    Some(Ok(Watched::Added(o) | Watched::Modified(o))) => revisions.push(o.revision()),
                    other => panic!("{other:?}"),
                }
            }
            revisions
        })
    });
    let readers: Vec<_> = readers.collect();
    for i in 0..1199 {
        cluster.merge(&config_map("a"), json!({"data": {"k": i.to_string()}})).await.unwrap();
    }
    let orders = futures::future::join_all(readers).await;
    let first = orders[0].as_ref().unwrap();
    assert!(first.is_sorted() && orders.iter().all(|o| o.as_ref().unwrap() == first));
    let mut taken = 0;
    while slow.recv().await.is_some() {
        taken += 1;
    }
    assert!(taken < 1200, "it was ended before the last event");
    assert_eq!(cluster.verbs.cache().watcher_count(), 0, "those who stopped reading are forgotten with the next event");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_and_its_snapshot_leave_no_gap() {
    let cluster = Arc::new(Cluster::new().await);
    let writer = cluster.clone();
    let writes = tokio::spawn(async move {
        for i in 0..100 {
            make(&writer, "ns", &format!("m{i:03}"), "x").await;
        }
    });
    let (mut snapshot, mut changes) = cluster.verbs.cache().subscribe();
    while snapshot.list::<ConfigMap>(Some("ns")).count() < 100 {
        for event in changes.next().await.unwrap().unwrap().iter() {
            assert!(event.object.revision() > snapshot.revision());
            snapshot.insert(event.object.clone());
        }
    }
    writes.await.unwrap();
    let names: Vec<String> = snapshot.list::<ConfigMap>(Some("ns")).map(|m| m.metadata.name.clone().unwrap()).collect();
    assert!(names.is_sorted() && names.len() == 100);
}
