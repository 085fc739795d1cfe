//! Namespaces: what lives in one needs it to be there and not on its way out; its own life cycle (finalize, delete).

use super::Verbs;
use crate::client::Target;
use crate::kinds::{AnyObject, Namespace, Object, ObjectKey, Registered};
use crate::meta::{Cause, Status, time};
use crate::watch::{Feed, Snapshot, keys};
use bytes::Bytes;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use orchd_store::Compare;

/// The finalizer of spec.finalizers that waits until a namespace is empty.
const KUBERNETES: &str = "kubernetes";
/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The namespace of a new object, as it stood when it was looked at.
pub(super) struct Home {
    key: Bytes,
    revision: i64,
}

impl Home {
    /// Holds as long as the namespace has not changed: it is not being deleted then.
    pub(super) fn unchanged(&self) -> Compare {
        Compare::mod_revision_is(self.key.clone(), self.revision)
    }
}

impl Verbs {
    /// The namespace that the object is to live in; None for cluster-scoped ones.
    pub(super) async fn home(&self, target: &Target, object: &dyn AnyObject) -> Result<Option<Home>, Status> {
        if !target.resource.names().namespaced {
            return Ok(None);
        }
        let name = object.meta().namespace.as_deref().unwrap_or_default();
        let key = ObjectKey::new("", name);
        let find = |snapshot: &Snapshot| snapshot.object(Namespace::resource(), &key).cloned();
        let found = match find(&self.cache.snapshot()) {
            Some(namespace) => Some(namespace),
            None => find(&self.newest().await?),
        };
        let Some(namespace) = found else { return Err(Status::not_found("", "namespaces", name)) };
        if namespace.meta().deletion_timestamp.is_some() {
            return Err(terminating(target, object, name));
        }
        Ok(Some(Home { key: keys::key(Namespace::resource(), &key), revision: namespace.revision() }))
    }
}

fn terminating(target: &Target, object: &dyn AnyObject, namespace: &str) -> Status {
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = super::create::forbidden(target.resource, object, &why);
    if let Some(details) = &mut status.details {
        details.causes.push(Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".into(),
        });
    }
    status
}

fn namespace_mut(object: &mut dyn AnyObject) -> Option<&mut core::Namespace> {
    object.as_any_mut().downcast_mut()
}

/// A new namespace is active and waits, when deleted, for its content to go.
pub(super) fn prepare_create(object: &mut dyn AnyObject) {
    let Some(namespace) = namespace_mut(object) else { return };
    let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == KUBERNETES) {
        finalizers.push(KUBERNETES.into());
    }
    namespace.status = Some(core::NamespaceStatus { phase: Some("Active".into()), conditions: None });
}

/// spec.finalizers change through `/finalize` alone.
pub(super) fn keep_finalizers(new: &mut dyn AnyObject, old: &Object) {
    let (Some(new), Some(old)) = (namespace_mut(new), old.get::<Namespace>()) else { return };
    new.spec.clone_from(&old.spec);
}

/// `/finalize`: everything but the spec stays.
pub(super) fn finalize(new: &mut dyn AnyObject, old: &Object) {
    let (Some(new), Some(old)) = (namespace_mut(new), old.get::<Namespace>()) else { return };
    new.status.clone_from(&old.status);
}

/// True if nothing but the deletion itself is left to do (only namespaces have finalizers in their spec).
pub(super) fn may_go(object: &dyn AnyObject) -> bool {
    let namespace: Option<&core::Namespace> = object.as_any().downcast_ref();
    namespace.is_none_or(|n| n.spec.as_ref().and_then(|s| s.finalizers.as_ref()).is_none_or(Vec::is_empty))
}

/// # Errors
/// 403 for the namespaces that every cluster needs.
pub(super) fn check_delete(target: &Target) -> Result<(), Status> {
    let name = target.name.as_deref().unwrap_or_default();
    if target.resource.names() == Namespace::resource().names() && IMMORTAL.contains(&name) {
        return Err(Status::forbidden("", "namespaces", name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// A delete of a namespace that still has finalizers in its spec. None: the object is none, and deletion is as of any.
pub(super) fn begin_delete(object: &Object, now: Timestamp) -> Option<Box<dyn AnyObject>> {
    let namespace = object.get::<Namespace>()?;
    if may_go(object.any()) {
        return None;
    }
    let mut next = namespace.clone();
    if next.metadata.deletion_timestamp.is_none() {
        next.metadata.deletion_timestamp = Some(time::seconds(now));
        next.status.get_or_insert_default().phase = Some("Terminating".into());
    }
    Some(Box::new(next))
}
