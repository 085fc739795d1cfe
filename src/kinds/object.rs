//! One decoded object, shared by every reader of its revision.

use super::kind::{Kind, Resource};
use crate::meta::ObjectMeta;
use bytes::Bytes;
use k8s_openapi::Metadata;
use serde::Serialize;
use serde_json::Value;
use std::{any::Any, fmt, sync::Arc, sync::OnceLock};

/// Namespace (empty for cluster-scoped kinds) and name: what tells objects of one resource apart. Ordered as lists are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// A typed object behind an object-safe face. Implemented for every k8s-openapi type that is a kind.
pub trait AnyObject: Any + Send + Sync + fmt::Debug {
    fn meta(&self) -> &ObjectMeta;
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn clone_box(&self) -> Box<dyn AnyObject>;
    /// JSON with apiVersion and kind.
    fn to_json(&self) -> Vec<u8>;
    fn to_value(&self) -> Value;
    fn equals(&self, other: &dyn AnyObject) -> bool;
}

impl<T> AnyObject for T
where
    T: Metadata<Ty = ObjectMeta> + Serialize + Clone + PartialEq + fmt::Debug + Send + Sync + 'static,
{
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
    fn clone_box(&self) -> Box<dyn AnyObject> {
        Box::new(self.clone())
    }
    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("API types hold no map with keys that are not strings")
    }
    fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("API types hold no map with keys that are not strings")
    }
    fn equals(&self, other: &dyn AnyObject) -> bool {
        other.as_any().downcast_ref::<T>() == Some(self)
    }
}

/// An object at a revision: decoded once, its JSON written at most once, shared as `Arc<Object>`.
pub struct Object {
    resource: &'static dyn Resource,
    typed: Box<dyn AnyObject>,
    revision: i64,
    json: OnceLock<Bytes>,
}

impl Object {
    /// Stamps `metadata.resourceVersion` with the revision; 0 (an object that is not kept: a dry run) leaves it out.
    pub fn new(resource: &'static dyn Resource, mut typed: Box<dyn AnyObject>, revision: i64) -> Self {
        typed.meta_mut().resource_version = (revision != 0).then(|| revision.to_string());
        Self { resource, typed, revision, json: OnceLock::new() }
    }
    pub fn resource(&self) -> &'static dyn Resource {
        self.resource
    }
    pub fn any(&self) -> &dyn AnyObject {
        &*self.typed
    }
    pub fn meta(&self) -> &ObjectMeta {
        self.typed.meta()
    }
    pub fn revision(&self) -> i64 {
        self.revision
    }
    pub fn key(&self) -> ObjectKey {
        ObjectKey::of(self.meta())
    }
    pub fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }
    /// The typed object, if it is of kind `K`.
    pub fn get<K: Kind>(&self) -> Option<&K::Object> {
        self.typed.as_any().downcast_ref()
    }
    /// JSON with apiVersion, kind and resourceVersion; written on first use.
    pub fn json(&self) -> &Bytes {
        self.json.get_or_init(|| Bytes::from(self.typed.to_json()))
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} @{}", self.resource.names().kind, self.key(), self.revision)
    }
}

/// Owner references of an object that name a controller (at most one does).
pub fn controller_of(meta: &ObjectMeta) -> Option<&crate::meta::OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|r| r.controller == Some(true))
}

/// A shared object whose kind is known.
pub struct Ref<K: Kind>(Arc<Object>, std::marker::PhantomData<fn() -> K>);

impl<K: Kind> Clone for Ref<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), std::marker::PhantomData)
    }
}

impl<K: Kind> Ref<K> {
    pub fn new(object: Arc<Object>) -> Option<Self> {
        object.get::<K>()?;
        Some(Self(object, std::marker::PhantomData))
    }
    pub fn object(&self) -> &Arc<Object> {
        &self.0
    }
}

impl<K: Kind> std::ops::Deref for Ref<K> {
    type Target = K::Object;
    fn deref(&self) -> &K::Object {
        self.0.get::<K>().expect("checked when the Ref was made")
    }
}
