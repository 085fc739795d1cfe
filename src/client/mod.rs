//! How whoever acts on the cluster talks to the API: one trait, over HTTPS from a node or the CLI, and inside a master
//! as a direct call into the API's pipeline.
//!
//! May import: meta, kinds, env.

pub mod https;
pub mod kubeconfig;
pub mod recorder;
pub mod reflector;
pub mod tunnel;

pub use https::HttpsClient;
pub use recorder::{Record, Recorder};

use crate::kinds::{Kind, Object, Registered, Resource};
use crate::meta::Status;
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::mpsc;

/// One object of a resource, or its collection (no name).
#[derive(Clone)]
pub struct Target {
    pub resource: &'static dyn Resource,
    /// None for cluster-scoped kinds and for lists over all namespaces.
    pub namespace: Option<String>,
    pub name: Option<String>,
    /// `status`, `scale`, `binding`, `eviction`, `token`, `finalize`…
    pub subresource: Option<&'static str>,
}

impl Target {
    pub fn object<K: Registered>(namespace: &str, name: &str) -> Self {
        let namespace = K::NAMES.namespaced.then(|| namespace.to_owned());
        Self { resource: K::resource(), namespace, name: Some(name.to_owned()), subresource: None }
    }
    pub fn collection<K: Registered>(namespace: Option<&str>) -> Self {
        Self { resource: K::resource(), namespace: namespace.map(str::to_owned), name: None, subresource: None }
    }
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "short for subresource; nobody subtracts targets")]
    pub fn sub(mut self, subresource: &'static str) -> Self {
        self.subresource = Some(subresource);
        self
    }
}

/// The three patches that every resource takes, and server-side apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
    /// Server-side apply; the body may be YAML.
    Apply,
}

/// When a delete may go ahead, and what becomes of dependents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    /// Background, Foreground or Orphan.
    pub propagation_policy: Option<String>,
}

/// Options of a list or watch.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    pub resource_version: Option<String>,
}

/// What a watch brings. After `Err` the stream ends; the caller lists again.
pub type WatchEvents = mpsc::Receiver<Result<crate::client::WatchEvent, Status>>;

#[derive(Clone, Debug)]
pub enum WatchEvent {
    Added(Arc<Object>),
    Modified(Arc<Object>),
    Deleted(Arc<Object>),
    /// Everything up to this revision has been delivered.
    Bookmark(i64),
}

/// A list at one revision.
#[derive(Clone, Debug)]
pub struct List {
    pub items: Vec<Arc<Object>>,
    pub revision: i64,
}

/// The verbs. Every call has a deadline of its own; errors are the API's own `Status`.
#[async_trait]
pub trait Client: Send + Sync {
    async fn get(&self, target: &Target) -> Result<Arc<Object>, Status>;
    async fn list(&self, target: &Target, options: &ListOptions) -> Result<List, Status>;
    /// Creates the object of the body; for subresources that answer with another kind (token, eviction) use `post`.
    async fn create(&self, target: &Target, body: Value) -> Result<Arc<Object>, Status>;
    /// Replaces the object, or its subresource; the body's resourceVersion, if any, must be the present one.
    async fn update(&self, target: &Target, body: Value) -> Result<Arc<Object>, Status>;
    async fn patch(&self, target: &Target, kind: PatchType, body: Bytes) -> Result<Arc<Object>, Status>;
    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<(), Status>;
    /// POST to a subresource; the answer as it came.
    async fn post(&self, target: &Target, body: Value) -> Result<Value, Status>;
    /// Changes after `options.resource_version`, in order, through a bounded channel.
    async fn watch(&self, target: &Target, options: &ListOptions) -> Result<WatchEvents, Status>;
}

/// Typed conveniences over any client.
impl dyn Client {
    /// # Errors
    /// The API's answer, NotFound above all.
    pub async fn fetch<K: Registered>(&self, namespace: &str, name: &str) -> Result<K::Object, Status> {
        let object = self.get(&Target::object::<K>(namespace, name)).await?;
        typed::<K>(&object)
    }

    /// Creates `object` in its own namespace.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn put_new<K: Registered>(&self, object: &K::Object) -> Result<Arc<Object>, Status> {
        use crate::kinds::AnyObject;
        let target = Target::collection::<K>(object.meta().namespace.as_deref());
        self.create(&target, object.to_value()).await
    }

    /// Replaces the status of `object`, guarded by its resourceVersion.
    ///
    /// # Errors
    /// The API's answer, Conflict above all.
    pub async fn put_status<K: Registered>(&self, object: &K::Object) -> Result<Arc<Object>, Status> {
        use crate::kinds::AnyObject;
        let (ns, name) = (object.meta().namespace.clone().unwrap_or_default(), object.meta().name.clone().unwrap_or_default());
        self.update(&Target::object::<K>(&ns, &name).sub("status"), object.to_value()).await
    }
}

fn typed<K: Kind>(object: &Object) -> Result<K::Object, Status> {
    object.get::<K>().cloned().ok_or_else(|| Status::internal(format!("the answer is no {}", K::NAMES.kind)))
}
