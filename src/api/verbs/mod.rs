//! The generic verbs: create, get, list, watch, update, patch, delete, deletecollection, and the subresources that are
//! changes of an object (status, scale, finalize, binding, eviction, token). HTTP stays outside.
//!
//! May import: meta, kinds, security, watch, env, store, client (its trait).

use super::patch::PatchKind;
use super::requests::{Answer, DeleteRequest, Deleted, ListQuery, Page, WatchQuery, Watched, WriteOptions};
use crate::client::Target;
use crate::kinds::Object;
use crate::meta::Status;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Every verb over every kind. One for a master; share it as `Arc<Verbs>`.
pub struct Verbs {}

impl Verbs {
    pub async fn get(&self, _target: &Target, _resource_version: &str) -> Result<Arc<Object>, Status> {
        unimplemented!("the verbs")
    }
    /// The `autoscaling/v1` Scale of an object, as JSON.
    pub async fn get_scale(&self, _target: &Target) -> Result<Bytes, Status> {
        unimplemented!("the verbs")
    }
    pub async fn list(&self, _target: &Target, _query: &ListQuery) -> Result<Page, Status> {
        unimplemented!("the verbs")
    }
    /// Events through a bounded channel; after `Err` it ends.
    pub async fn watch(&self, _target: &Target, _query: WatchQuery) -> Result<mpsc::Receiver<Result<Watched, Status>>, Status> {
        unimplemented!("the verbs")
    }
    /// POST of a JSON body to a collection, a virtual resource or a subresource (binding, eviction, token).
    pub async fn create(&self, _target: &Target, _json: Bytes, _options: &WriteOptions) -> Result<Answer, Status> {
        unimplemented!("the verbs")
    }
    /// PUT of a JSON body, of the object or of status, scale, finalize.
    pub async fn update(&self, _target: &Target, _json: Bytes, _options: &WriteOptions) -> Result<Answer, Status> {
        unimplemented!("the verbs")
    }
    /// PATCH; the body is JSON (an Apply's YAML has become JSON).
    pub async fn patch(&self, _target: &Target, _kind: PatchKind, _json: Bytes, _options: &WriteOptions) -> Result<Answer, Status> {
        unimplemented!("the verbs")
    }
    pub async fn delete(&self, _target: &Target, _request: &DeleteRequest) -> Result<Deleted, Status> {
        unimplemented!("the verbs")
    }
    /// Deletes what the selectors match; returns what was deleted.
    pub async fn delete_collection(&self, _target: &Target, _query: &ListQuery, _request: &DeleteRequest) -> Result<Page, Status> {
        unimplemented!("the verbs")
    }
}
