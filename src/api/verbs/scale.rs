//! The scale subresource: `autoscaling/v1` Scale over an object's replicas.

use super::Verbs;
use super::change::Part;
use super::decode::Decoded;
use super::list::{key_of, not_found};
use super::patch::apply;
use crate::api::patch::PatchKind;
use crate::api::requests::{Answer, WriteOptions};
use crate::api::schema::Shape;
use crate::client::Target;
use crate::kinds::Object;
use crate::meta::{FieldErrors, FieldPath, Status};
use crate::watch::cache;
use bytes::Bytes;
use k8s_openapi::api::autoscaling::v1::Scale;
use serde_json::{Value, json};
use std::sync::Arc;

impl Verbs {
    /// The `autoscaling/v1` Scale of an object, as JSON.
    ///
    /// # Errors
    /// NotFound, also for kinds that do not scale.
    pub async fn get_scale(&self, target: &Target) -> Result<Bytes, Status> {
        let snapshot = self.newest().await?;
        let object = cache::object_of(&snapshot, target.resource, &key_of(target)?).ok_or_else(|| not_found(target))?;
        Ok(scale_of(target, &object)?.to_string().into())
    }

    pub(super) async fn put_scale(&self, target: &Target, body: &[u8], options: &WriteOptions) -> Result<Answer, Status> {
        let scale = decode(body)?;
        check(target, &scale)?;
        self.rescale(target, options, &|_| Ok(scale.clone())).await
    }

    pub(super) async fn patch_scale(
        &self,
        target: &Target,
        kind: PatchKind,
        body: &[u8],
        options: &WriteOptions,
    ) -> Result<Answer, Status> {
        let make = |old: &Arc<Object>| {
            let next = apply(&scale_of(target, old)?, kind, body, Shape::of_kind("autoscaling", "v1", "Scale"))?;
            let scale = decode(next.to_string().as_bytes())?;
            check(target, &scale)?;
            Ok(scale)
        };
        self.rescale(target, options, &make).await
    }

    async fn rescale(
        &self,
        target: &Target,
        options: &WriteOptions,
        wanted: &(dyn Fn(&Arc<Object>) -> Result<Scale, Status> + Sync),
    ) -> Result<Answer, Status> {
        let make = |old: &Arc<Object>| {
            let scale = wanted(old)?;
            let mut object = old.any().clone_box();
            target.resource.set_scale(&mut *object, scale.spec.and_then(|s| s.replicas).unwrap_or(0));
            object.meta_mut().resource_version = scale.metadata.resource_version;
            Ok(Decoded { object, warnings: Vec::new() })
        };
        let written = self.change(target, Part::Whole, options, &make).await?;
        let body = scale_of(target, &written.object)?.to_string().into();
        Ok(Answer::Json { status: 200, body, warnings: written.warnings })
    }
}

fn decode(body: &[u8]) -> Result<Scale, Status> {
    serde_json::from_slice(body).map_err(|e| Status::bad_request(format!("Scale in version \"v1\" cannot be handled as a Scale: {e}")))
}

fn check(target: &Target, scale: &Scale) -> Result<(), Status> {
    let (own, asked) = (scale.metadata.name.as_deref().unwrap_or_default(), target.name.as_deref().unwrap_or_default());
    if own != asked {
        return Err(Status::bad_request(format!("the name of the object ({own}) does not match the name on the URL ({asked})")));
    }
    let replicas = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
    let mut errors = FieldErrors::default();
    if replicas < 0 {
        errors.invalid(&FieldPath::new("spec").child("replicas"), replicas, "must be greater than or equal to 0");
        return Err(Status::invalid("autoscaling", "Scale", own, &errors));
    }
    Ok(())
}

fn scale_of(target: &Target, object: &Object) -> Result<Value, Status> {
    let (replicas, present, selector) = target.resource.scale(object.any()).ok_or_else(|| not_found(target))?;
    let meta = object.meta();
    let mut metadata = json!({"name": meta.name, "namespace": meta.namespace, "uid": meta.uid,
        "resourceVersion": meta.resource_version, "creationTimestamp": meta.creation_timestamp});
    if meta.resource_version.is_none() {
        metadata["resourceVersion"].take();
    }
    let mut spec = json!({});
    if replicas != 0 {
        spec["replicas"] = json!(replicas);
    }
    let mut status = json!({"replicas": present});
    if !selector.is_empty() {
        status["selector"] = json!(selector);
    }
    Ok(json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status}))
}
