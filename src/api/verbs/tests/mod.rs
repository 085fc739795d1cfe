//! The verbs over a real store in a directory of its own.

mod desired;
mod lists;
mod objects;
mod pods;
mod views;
mod watches;

use super::{Config, Verbs};
use crate::api::patch::PatchKind;
use crate::api::requests::{Answer, DeleteRequest, Deleted, FieldValidation, WriteOptions, Written};
use crate::client::{DeleteOptions, Target};
use crate::env::SystemClock;
use crate::kinds::{ConfigMap, Namespace, Object, Registered, ServiceAccount};
use crate::meta::Status;
use crate::security::{Tokens, User};
use crate::watch::Cache;
use bytes::Bytes;
use orchd_store::{Options, Store};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// A cluster of nothing but an API. The directory goes with it.
struct Cluster {
    verbs: Arc<Verbs>,
    store: Store,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// With the namespaces `ns` and `other`, each with a ServiceAccount `default`.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, verbs) = open(dir.path()).await;
        let cluster = Self { verbs, store, dir };
        for namespace in ["ns", "other"] {
            cluster.create::<Namespace>("", json!({"metadata": {"name": namespace}})).await.unwrap();
            cluster.create::<ServiceAccount>(namespace, json!({"metadata": {"name": "default"}})).await.unwrap();
        }
        cluster
    }

    /// The same cluster after a restart.
    async fn restarted(self) -> Self {
        self.store.close().await;
        drop((self.verbs, self.store));
        let (store, verbs) = open(self.dir.path()).await;
        Self { verbs, store, dir: self.dir }
    }

    async fn create<K: Registered>(&self, namespace: &str, body: Value) -> Result<Arc<Object>, Status> {
        self.create_with::<K>(namespace, body, &options()).await.map(|w| w.object)
    }

    async fn create_with<K: Registered>(&self, namespace: &str, body: Value, options: &WriteOptions) -> Result<Written, Status> {
        let namespace = (!namespace.is_empty()).then_some(namespace);
        written(self.verbs.create(&Target::collection::<K>(namespace), bytes(&body), options).await?)
    }

    async fn update(&self, target: &Target, body: &Value) -> Result<Arc<Object>, Status> {
        written(self.verbs.update(target, bytes(body), &options()).await?).map(|w| w.object)
    }

    async fn merge(&self, target: &Target, patch: Value) -> Result<Arc<Object>, Status> {
        written(self.verbs.patch(target, PatchKind::Merge, bytes(&patch), &options()).await?).map(|w| w.object)
    }

    async fn get(&self, target: &Target) -> Result<Arc<Object>, Status> {
        self.verbs.get(target, "").await
    }

    async fn delete(&self, target: &Target, options: DeleteOptions) -> Result<Deleted, Status> {
        self.verbs.delete(target, &DeleteRequest { options, ..DeleteRequest::default() }).await
    }
}

async fn open(dir: &Path) -> (Store, Arc<Verbs>) {
    let store = Store::open(Options { dir: dir.to_owned(), quota_bytes: 0, group: None }).await.unwrap();
    let cache = Cache::start(store.clone()).await.unwrap();
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let tokens = Arc::new(Tokens::new(&key).unwrap());
    let verbs = Verbs::new(store.clone(), cache, Arc::new(SystemClock), tokens, Config::default());
    (store, Arc::new(verbs))
}

fn options() -> WriteOptions {
    WriteOptions { user: User::system("test"), field_validation: FieldValidation::Strict, ..WriteOptions::default() }
}

fn bytes(body: &Value) -> Bytes {
    Bytes::from(body.to_string())
}

fn written(answer: Answer) -> Result<Written, Status> {
    match answer {
        Answer::Written(written) => Ok(written),
        Answer::Json { body, .. } => panic!("the answer is no object: {}", String::from_utf8_lossy(&body)),
    }
}

fn config_map(name: &str) -> Target {
    Target::object::<ConfigMap>("ns", name)
}

fn value(object: &Object) -> Value {
    serde_json::from_slice(object.json()).unwrap()
}
