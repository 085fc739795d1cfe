//! Server-side apply: the merge is `api::patch::apply`'s; what comes out goes the way of an update, or of a create if the
//! object is not there. Every other change of an object that is tracked is noted here too.

use super::Verbs;
use super::decode::{Decoded, decode};
use super::duplicates::duplicates;
use super::update::{check_name, part_of};
use crate::api::patch::apply::{self, Manager};
use crate::api::requests::{Answer, FieldValidation, WriteOptions};
use crate::api::schema::Shape;
use crate::client::Target;
use crate::kinds::{AnyObject, Object, Resource, Subresource};
use crate::meta::{Reason, Status, time};
use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use std::sync::Arc;

/// Who writes, with the texts that a `Manager` borrows.
struct Writer {
    api_version: String,
    now: String,
}

impl Writer {
    fn new(resource: &dyn Resource, now: Timestamp) -> Self {
        Self { api_version: resource.names().group_version().to_string(), now: time::seconds(now).0.to_string() }
    }

    fn manager<'a>(&'a self, options: &'a WriteOptions, subresource: Option<&'a str>) -> Manager<'a> {
        let subresource = subresource.unwrap_or_default();
        Manager { name: &options.field_manager, api_version: &self.api_version, subresource, now: &self.now }
    }
}

fn shape(resource: &dyn Resource) -> Shape {
    let n = resource.names();
    Shape::of_kind(n.group, n.version, n.kind)
}

/// Top-level fields that an endpoint does not write.
fn ignored(target: &Target) -> &'static [&'static str] {
    match target.subresource {
        Some("status") => &["spec"],
        None if target.resource.subresources().contains(&Subresource::Status) => &["status"],
        _ => &[],
    }
}

impl Verbs {
    /// An apply patch; `json` is its body.
    pub(super) async fn apply(&self, target: &Target, json: &Bytes, options: &WriteOptions) -> Result<Answer, Status> {
        let part = part_of(target)?;
        let (config, warnings) = configuration(target, json, options)?;
        let options = WriteOptions { applies: true, ..options.clone() };
        let writer = Writer::new(target.resource, self.clock.now());
        let (shape, ignored) = (shape(target.resource), ignored(target));
        let make = |old: &Arc<Object>| {
            let live: Value = serde_json::from_slice(old.json()).map_err(Status::internal)?;
            let manager = writer.manager(&options, target.subresource);
            let next = apply::apply(Some(&live), config.clone(), shape, &manager, options.force, ignored)?;
            let object = decode(target.resource, next.to_string().as_bytes(), FieldValidation::Ignore)?.object;
            check_name(target, &*object)?;
            Ok(Decoded { object, warnings: warnings.clone() })
        };
        match self.change(target, part, &options, &make).await {
            Err(status) if status.is(Reason::NotFound) && target.subresource.is_none() => {
                let mut config = config.clone();
                if config["metadata"]["resourceVersion"].as_str().is_some_and(|rv| !rv.is_empty()) {
                    return Err(status);
                }
                config["metadata"]["name"] = target.name.clone().into();
                let manager = writer.manager(&options, None);
                let new = apply::apply(None, config, shape, &manager, options.force, ignored)?;
                let collection = Target { name: None, ..target.clone() };
                let create = WriteOptions { field_validation: FieldValidation::Ignore, ..options.clone() };
                self.create(&collection, new.to_string().into(), &create).await
            }
            other => other.map(Answer::Written),
        }
    }
}

/// The body as an object, and what to warn of. Unknown fields are refused whatever the validation, as nobody could own
/// them.
fn configuration(target: &Target, json: &Bytes, options: &WriteOptions) -> Result<(Value, Vec<String>), Status> {
    let config: Value = serde_json::from_slice(json).map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
    let decoded = decode(target.resource, json, FieldValidation::Warn)?;
    let n = target.resource.names();
    let name = target.name.as_deref().unwrap_or_default();
    if config["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        return Err(Status::bad_request("name is required"));
    }
    check_name(target, &*decoded.object)?;
    let unknown = decoded.warnings.iter().find_map(|w| w.strip_prefix("unknown field \"")?.strip_suffix('"'));
    if let Some(path) = unknown {
        let of = target.namespace.as_ref().map_or_else(|| format!("/{name}"), |ns| format!("{ns}/{name}"));
        let why = format!(
            "failed to create typed patch object ({of}; {}, Kind={}): .{path}: field not declared in schema",
            n.group_version(),
            n.kind
        );
        return Err(Status { code: 500, ..Status::new(Reason::Unknown, why) });
    }
    let twice: Vec<String> = match options.field_validation {
        FieldValidation::Ignore => Vec::new(),
        _ => duplicates(json).iter().map(|path| format!("duplicate field \"{path}\"")).collect(),
    };
    if options.field_validation == FieldValidation::Strict && !twice.is_empty() {
        return Err(Status::bad_request(format!("error strict decoding YAML: {}", twice.join(", "))));
    }
    Ok((config, twice))
}

/// An apply that changes nothing once defaults are filled in and quantities are written as the server writes them has not
/// happened: its time does not count.
fn settled(new: Box<dyn AnyObject>, old: &Object) -> Box<dyn AnyObject> {
    let timeless = |object: &dyn AnyObject| {
        let mut fields = object.meta().managed_fields.clone().unwrap_or_default();
        fields.iter_mut().for_each(|f| f.time = None);
        fields
    };
    if timeless(&*new) != timeless(old.any()) {
        return new;
    }
    let mut quiet = new.clone_box();
    quiet.meta_mut().managed_fields.clone_from(&old.meta().managed_fields);
    if quiet.equals(old.any()) { quiet } else { new }
}

/// Notes in the new object's managedFields what `options.field_manager` changed, if the object is tracked.
pub(super) fn track(
    target: &Target,
    options: &WriteOptions,
    new: Box<dyn AnyObject>,
    old: &Object,
    now: Timestamp,
) -> Result<Box<dyn AnyObject>, Status> {
    if options.applies {
        return Ok(settled(new, old));
    }
    let tracked = new.meta().managed_fields.as_ref().is_some_and(|f| !f.is_empty());
    if !tracked || new.equals(old.any()) {
        return Ok(new);
    }
    let before: Value = serde_json::from_slice(old.json()).map_err(Status::internal)?;
    let mut after = new.to_value();
    let writer = Writer::new(target.resource, now);
    apply::track(&before, &mut after, shape(target.resource), &writer.manager(options, target.subresource));
    target.resource.decode_value(after).map_err(Status::internal)
}
