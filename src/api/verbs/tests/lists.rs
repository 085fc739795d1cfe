//! Lists: pages, revisions, selectors.

use super::*;
use crate::api::requests::{ListQuery, Page};
use crate::kinds::PodTemplate;
use crate::meta::Reason;

async fn templates(cluster: &Cluster, namespace: &str, count: usize) {
    for i in 0..count {
        let body = json!({"metadata": {"name": format!("template-{i:04}"), "labels": {"odd": (i % 2).to_string()}},
            "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}});
        cluster.create::<PodTemplate>(namespace, body).await.unwrap();
    }
}

fn of(namespace: Option<&str>) -> Target {
    Target::collection::<PodTemplate>(namespace)
}

async fn page(cluster: &Cluster, namespace: Option<&str>, limit: usize, token: &str) -> Result<Page, Status> {
    let query = ListQuery { limit, continue_token: token.into(), ..ListQuery::default() };
    cluster.verbs.list(&of(namespace), &query).await
}

fn names(page: &Page) -> Vec<String> {
    page.items.iter().map(|o| o.key().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_one_revision_whatever_is_written_meanwhile() {
    let cluster = Cluster::new().await;
    templates(&cluster, "ns", 40).await;
    templates(&cluster, "other", 3).await;
    let all = page(&cluster, None, 0, "").await.unwrap();
    assert_eq!((all.items.len(), all.continue_token.as_str()), (43, ""));
    for (namespace, total) in [(Some("ns"), 40), (None, 43)] {
        let (mut token, mut seen, mut revision) = (String::new(), Vec::new(), None);
        loop {
            let next = page(&cluster, namespace, 17, &token).await.unwrap();
            assert_eq!(*revision.get_or_insert(next.revision), next.revision);
            seen.extend(names(&next));
            if next.continue_token.is_empty() {
                assert_eq!(next.remaining, None);
                break;
            }
            assert_eq!(next.remaining, Some(total - seen.len()));
            token = next.continue_token;
            // Names that would come next, and one that is gone.
            let number = seen.len();
            let body = json!({"metadata": {"name": format!("template-{number:04}-new")}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}});
            cluster.create::<PodTemplate>("ns", body).await.unwrap();
            let gone = Target::object::<PodTemplate>("ns", &format!("template-{number:04}-new"));
            let _not_there_for_all = cluster.delete(&gone, DeleteOptions::default()).await;
        }
        seen.dedup();
        assert_eq!(seen.len(), total);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_token_offers_to_go_on() {
    let cluster = Cluster::new().await;
    templates(&cluster, "ns", 10).await;
    let first = page(&cluster, Some("ns"), 4, "").await.unwrap();
    cluster.create::<ConfigMap>("ns", json!({"metadata": {"name": "a"}})).await.unwrap();
    cluster.create::<ConfigMap>("ns", json!({"metadata": {"name": "b"}})).await.unwrap();
    cluster.store.compact(cluster.store.revision()).await.unwrap();
    let expired = page(&cluster, Some("ns"), 4, &first.continue_token).await.unwrap_err();
    assert!(expired.is(Reason::Expired) && expired.code == 410);
    let second = page(&cluster, Some("ns"), 4, &expired.continue_token.unwrap()).await.unwrap();
    assert!(second.revision > first.revision);
    assert_eq!(names(&second), ["ns/template-0004", "ns/template-0005", "ns/template-0006", "ns/template-0007"]);
    assert_eq!(second.remaining, Some(2));
    let third = page(&cluster, Some("ns"), 4, &second.continue_token).await.unwrap();
    assert_eq!((third.revision, third.items.len()), (second.revision, 2));
    let query = ListQuery { resource_version: first.revision.to_string(), resource_version_match: "Exact".into(), ..ListQuery::default() };
    assert!(cluster.verbs.list(&of(Some("ns")), &query).await.unwrap_err().is(Reason::Expired));
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_may_be_named() {
    let cluster = Cluster::new().await;
    templates(&cluster, "ns", 2).await;
    let before = page(&cluster, Some("ns"), 0, "").await.unwrap();
    templates(&cluster, "other", 1).await;
    let at = |rv: &str, how: &str| ListQuery { resource_version: rv.into(), resource_version_match: how.into(), ..ListQuery::default() };
    let then = before.revision.to_string();
    let exact = cluster.verbs.list(&of(None), &at(&then, "Exact")).await.unwrap();
    assert_eq!((exact.revision, exact.items.len()), (before.revision, 2));
    assert_eq!(cluster.verbs.list(&of(None), &at(&then, "NotOlderThan")).await.unwrap().items.len(), 3);
    assert_eq!(cluster.verbs.list(&of(None), &at("0", "")).await.unwrap().items.len(), 3);
    let future = cluster.verbs.list(&of(None), &at("100000", "")).await.unwrap_err();
    assert!(future.is(Reason::Timeout) && future.message.contains("Too large resource version: 100000"), "{future}");
    assert_eq!(cluster.verbs.list(&of(None), &at("x", "")).await.unwrap_err().code, 400);
    assert_eq!(cluster.verbs.list(&of(None), &at("", "Exact")).await.unwrap_err().code, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_thin_lists_and_pages() {
    let cluster = Cluster::new().await;
    templates(&cluster, "ns", 9).await;
    let with =
        |labels: &str, fields: &str| ListQuery { label_selector: labels.into(), field_selector: fields.into(), ..ListQuery::default() };
    let verbs = &cluster.verbs;
    let list = |query: ListQuery| async move { verbs.list(&of(Some("ns")), &query).await };
    assert_eq!(list(with("odd=1", "")).await.unwrap().items.len(), 4);
    assert_eq!(names(&list(with("", "metadata.name=template-0003")).await.unwrap()), ["ns/template-0003"]);
    assert_eq!(list(with("odd=0", "metadata.name=template-0003")).await.unwrap().items.len(), 0);
    assert_eq!(list(with("", "metadata.name!=template-0003,metadata.namespace=ns")).await.unwrap().items.len(), 8);
    let unknown = list(with("", "spec.x=y")).await.unwrap_err();
    assert_eq!(unknown.message, "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"");
    let first = list(ListQuery { limit: 3, ..with("odd=0", "") }).await.unwrap();
    assert_eq!((names(&first).len(), first.remaining), (3, None));
    let rest = list(ListQuery { limit: 3, continue_token: first.continue_token, ..with("odd=0", "") }).await.unwrap();
    assert_eq!(names(&rest), ["ns/template-0006", "ns/template-0008"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_is_deleted_by_selector() {
    let cluster = Cluster::new().await;
    templates(&cluster, "ns", 9).await;
    let query = ListQuery { label_selector: "odd=1".into(), ..ListQuery::default() };
    let gone = cluster.verbs.delete_collection(&of(Some("ns")), &query, &DeleteRequest::default()).await.unwrap();
    assert_eq!(gone.items.len(), 4);
    assert_eq!(page(&cluster, Some("ns"), 0, "").await.unwrap().items.len(), 5);
}
