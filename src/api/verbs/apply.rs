//! Server-side apply over the verbs: the configuration is merged into what is there (or becomes the object), and every
//! other write of an object that has been applied once is noted in its managed fields.

use super::Verbs;
use super::change::Part;
use super::create::not_allowed;
use super::decode::{Decoded, Misfit, decode, decode_or_misfit};
use super::update::check_name;
use crate::api::patch::apply::{self, Manager};
use crate::api::requests::{Answer, FieldValidation, WriteOptions};
use crate::api::schema::Shape;
use crate::client::Target;
use crate::kinds::{AnyObject, Object};
use crate::meta::{FieldErrors, FieldPath, Reason, Status, time};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use std::sync::Arc;

fn shape_of(target: &Target) -> Shape {
    let n = target.resource.names();
    Shape::of_kind(n.group, n.version, n.kind)
}

/// Now as managed fields carry it.
fn text_of(now: Timestamp) -> String {
    serde_json::to_value(time::seconds(now)).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

impl Verbs {
    pub(super) async fn apply(&self, target: &Target, json: &[u8], options: &WriteOptions) -> Result<Answer, Status> {
        let (part, ignored) = match target.subresource {
            None => (Part::Applied, "status"),
            Some("status") => (Part::AppliedStatus, "spec"),
            Some(_) => return Err(not_allowed()),
        };
        let warnings = check(target, json, options)?;
        let config: Value = serde_json::from_slice(json).map_err(|e| Status::bad_request(e.to_string()))?;
        let (api_version, now) = (target.resource.names().group_version().to_string(), text_of(self.clock.now()));
        let subresource = target.subresource.unwrap_or_default();
        let manager = Manager { name: &options.field_manager, api_version: &api_version, subresource, now: &now };
        let merged = |live: Option<&Value>| -> Result<Decoded, Status> {
            let next = apply::apply(live, config.clone(), shape_of(target), &manager, options.force, &[ignored])?;
            let bytes = serde_json::to_vec(&next).map_err(Status::internal)?;
            let Decoded { object, .. } = decode(target.resource, &bytes, FieldValidation::Ignore)?;
            Ok(Decoded { object, warnings: warnings.clone() })
        };
        let make = |old: &Arc<Object>| {
            let live: Value = serde_json::from_slice(old.json()).map_err(Status::internal)?;
            merged(Some(&live))
        };
        match self.change(target, part, options, &make).await {
            Err(status) if status.is(Reason::NotFound) && target.subresource.is_none() && !names_an_object(&config) => {
                let collection = Target { name: None, ..target.clone() };
                self.create_from(&collection, &|| merged(None), options).await.map(Answer::Written)
            }
            other => other.map(Answer::Written),
        }
    }
}

/// A configuration with a uid or a version means an object that is there.
fn names_an_object(config: &Value) -> bool {
    let said = |field: &str| config["metadata"][field].as_str().is_some_and(|text| !text.is_empty());
    said("uid") || said("resourceVersion")
}

/// Checks manager, name and fields of a configuration; returns what to warn of.
fn check(target: &Target, json: &[u8], options: &WriteOptions) -> Result<Vec<String>, Status> {
    if options.field_manager.is_empty() {
        let mut errors = FieldErrors::default();
        errors.required(&FieldPath::new("fieldManager"), "is required for apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &errors));
    }
    let decoded = match decode_or_misfit(target.resource, json, options.field_validation) {
        Ok(decoded) => decoded,
        Err(Misfit(why)) if why.starts_with("strict") => return Err(Status::bad_request(why)),
        Err(_) => decode(target.resource, json, options.field_validation)?,
    };
    check_name(target, &*decoded.object)?;
    Ok(decoded.warnings)
}

/// Notes in the new object which of its fields this write has changed.
pub(super) fn track(target: &Target, options: &WriteOptions, new: &mut dyn AnyObject, old: &Object, now: Timestamp) -> Result<(), Status> {
    let before: Value = serde_json::from_slice(old.json()).map_err(Status::internal)?;
    let mut after = new.to_value();
    let (api_version, now) = (target.resource.names().group_version().to_string(), text_of(now));
    let subresource = target.subresource.unwrap_or_default();
    let manager = Manager { name: &options.field_manager, api_version: &api_version, subresource, now: &now };
    apply::track(&before, &mut after, shape_of(target), &manager);
    new.meta_mut().managed_fields = serde_json::from_value(after["metadata"]["managedFields"].take()).map_err(Status::internal)?;
    Ok(())
}
