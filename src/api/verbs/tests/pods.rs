//! Pods and what hangs on them: binding, eviction, tokens, reviews; and the client of a master's own parts.

use super::*;
use crate::api::local::LocalClient;
use crate::client::{Client, ListOptions, WatchEvent};
use crate::env::Clock;
use crate::kinds::{Pod, SelfSubjectAccessReview, SelfSubjectReview};
use crate::meta::Reason;
use crate::security::token::ISSUER;

fn pod(name: &str) -> Target {
    Target::object::<Pod>("ns", name)
}

fn body(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 30}})
}

async fn post(cluster: &Cluster, target: &Target, body: Value) -> Result<Value, Status> {
    match cluster.verbs.create(target, bytes(&body), &options()).await? {
        Answer::Json { body, .. } => Ok(serde_json::from_slice(&body).unwrap()),
        Answer::Written(w) => Ok(value(&w.object)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_admitted_and_bound_once() {
    let cluster = Cluster::new().await;
    let made = value(&cluster.create::<Pod>("ns", body("p")).await.unwrap());
    assert_eq!((&made["metadata"]["generation"], &made["spec"]["serviceAccountName"]), (&json!(1), &json!("default")));
    assert!(made["spec"]["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 2);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(post(&cluster, &pod("p").sub("binding"), binding.clone()).await.unwrap()["status"], "Success");
    let bound = value(&cluster.get(&pod("p")).await.unwrap());
    assert_eq!((&bound["spec"]["nodeName"], &bound["status"]["conditions"][0]["type"]), (&json!("n1"), &json!("PodScheduled")));
    let twice = post(&cluster, &pod("p").sub("binding"), binding).await.unwrap_err();
    assert_eq!(twice.message, "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\"");
    let mut nobody = body("q");
    nobody["spec"]["serviceAccountName"] = json!("nobody");
    let refused = cluster.create::<Pod>("ns", nobody).await.unwrap_err();
    assert_eq!(refused.message, "pods \"q\" is forbidden: error looking up service account ns/nobody: serviceaccount \"nobody\" not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_waits_for_the_account_of_a_new_namespace() {
    let cluster = Arc::new(Cluster::new().await);
    cluster.create::<Namespace>("", json!({"metadata": {"name": "new"}})).await.unwrap();
    let early = cluster.clone();
    let create = tokio::spawn(async move { early.create::<Pod>("new", body("p")).await });
    cluster.create::<ServiceAccount>("new", json!({"metadata": {"name": "default"}})).await.unwrap();
    create.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn eviction_deletes() {
    let cluster = Cluster::new().await;
    cluster.create::<Pod>("ns", body("p")).await.unwrap();
    let eviction = json!({"metadata": {"name": "p", "namespace": "ns"}, "deleteOptions": {"gracePeriodSeconds": 0}});
    assert_eq!(post(&cluster, &pod("p").sub("eviction"), eviction).await.unwrap()["code"], 201);
    assert!(cluster.get(&pod("p")).await.unwrap_err().is(Reason::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_bound_to_their_pod() {
    let cluster = Cluster::new().await;
    let made = cluster.create::<Pod>("ns", body("p")).await.unwrap();
    let account = Target::object::<ServiceAccount>("ns", "default").sub("token");
    let request = json!({"spec": {"audiences": [], "expirationSeconds": 600, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": made.uid()}}});
    let answer = post(&cluster, &account, request).await.unwrap();
    let token = answer["status"]["token"].as_str().unwrap();
    let now = SystemClock.now().as_second();
    let claims = cluster.verbs.tokens.verify(token, Some(ISSUER), now).unwrap();
    assert_eq!((claims.pod.unwrap().uid.as_str(), claims.expires_at_s - claims.issued_at_s), (made.uid(), 600));
    assert!(answer["status"]["expirationTimestamp"].is_string());
    let short = post(&cluster, &account, json!({"spec": {"audiences": [], "expirationSeconds": 10}})).await.unwrap_err();
    assert!(short.message.contains("may not specify a duration less than 10 minutes"));
    let other = json!({"spec": {"audiences": [], "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "x"}}});
    assert!(post(&cluster, &account, other).await.unwrap_err().is(Reason::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_may_ask_about_oneself() {
    let cluster = Cluster::new().await;
    let me = post(&cluster, &Target::collection::<SelfSubjectReview>(None), json!({})).await.unwrap();
    assert_eq!(me["status"]["userInfo"]["username"], "test");
    let may = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "ns"}}});
    let access = Target::collection::<SelfSubjectAccessReview>(None);
    assert_eq!(post(&cluster, &access, may.clone()).await.unwrap()["status"]["allowed"], true);
    let stranger = WriteOptions { user: User { name: "x".into(), ..User::default() }, ..options() };
    let Answer::Json { body, status, .. } = cluster.verbs.create(&access, bytes(&may), &stranger).await.unwrap() else { panic!("kept") };
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &answer["status"]["allowed"]), (201, &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_client_speaks_the_same_verbs() {
    let cluster = Cluster::new().await;
    let client: Arc<dyn Client> = Arc::new(LocalClient::new(cluster.verbs.clone(), User::system("system:controller")));
    let all = Target::collection::<ConfigMap>(Some("ns"));
    let mut events = client.watch(&all, &ListOptions::default()).await.unwrap();
    client.create(&all, json!({"metadata": {"name": "a"}})).await.unwrap();
    assert!(matches!(events.recv().await, Some(Ok(WatchEvent::Added(o))) if o.key().name == "a"));
    client.patch(&config_map("a"), crate::client::PatchType::Merge, Bytes::from_static(b"{\"data\":{\"k\":\"v\"}}")).await.unwrap();
    let fetched = client.fetch::<ConfigMap>("ns", "a").await.unwrap();
    assert_eq!(fetched.data.unwrap()["k"], "v");
    assert_eq!(client.list(&all, &ListOptions::default()).await.unwrap().items.len(), 1);
    client.delete(&config_map("a"), &DeleteOptions::default()).await.unwrap();
    assert!(client.get(&config_map("a")).await.unwrap_err().is(Reason::NotFound));
}
