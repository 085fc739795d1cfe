//! update: PUT of the object, or of its status, scale, finalize, resize or ephemeral containers.

use super::change::Part;
use super::create::not_allowed;
use super::decode::{Decoded, decode};
use super::{Verbs, pods};
use crate::api::requests::{Answer, WriteOptions};
use crate::client::Target;
use crate::kinds::{AnyObject, Endpoints, Event, Lease, Object, Registered, Resource, Service};
use crate::meta::{Reason, Status};
use bytes::Bytes;
use std::sync::Arc;

impl Verbs {
    /// PUT of a JSON body, of the object or of a subresource.
    ///
    /// # Errors
    /// What Kubernetes answers; Conflict above all.
    pub async fn update(&self, target: &Target, json: Bytes, options: &WriteOptions) -> Result<Answer, Status> {
        if target.subresource == Some("scale") {
            return self.put_scale(target, &json, options).await;
        }
        let part = part_of(target)?;
        let body = decode(target.resource, &json, options.field_validation)?;
        check_name(target, &*body.object)?;
        let make = |old: &Arc<Object>| {
            let object = match target.subresource {
                Some("resize") => pods::resized(old, &*body.object)?,
                Some("ephemeralcontainers") => pods::with_ephemeral_containers(old, &*body.object)?,
                _ => settled(body.object.clone_box(), old),
            };
            Ok(Decoded { object, warnings: body.warnings.clone() })
        };
        match self.change(target, part, options, &make).await {
            Err(status) if status.is(Reason::NotFound) && creates(target, &*body.object) => {
                let collection = Target { name: None, ..target.clone() };
                self.create(&collection, json, options).await
            }
            other => other.map(Answer::Written),
        }
    }
}

/// The rules for the target's subresource.
pub(super) fn part_of(target: &Target) -> Result<Part, Status> {
    match target.subresource {
        None => Ok(Part::Whole),
        Some("status") => Ok(Part::Status),
        Some("finalize") => Ok(Part::Finalize),
        Some("resize" | "ephemeralcontainers") => Ok(Part::Trusted),
        Some(_) => Err(not_allowed()),
    }
}

/// The managed fields of an update are the server's: they stay, unless the client resets them with an empty entry.
pub(super) fn settled(mut object: Box<dyn AnyObject>, old: &Object) -> Box<dyn AnyObject> {
    let resets = object.meta().managed_fields.as_ref().is_some_and(|f| f.len() == 1 && f[0].manager.is_none() && f[0].fields_v1.is_none());
    object.meta_mut().managed_fields = if resets { None } else { old.meta().managed_fields.clone() };
    object
}

/// The body must name the object of the path, or none.
pub(super) fn check_name(target: &Target, object: &dyn AnyObject) -> Result<(), Status> {
    let (own, asked) = (object.meta().name.as_deref().unwrap_or_default(), target.name.as_deref().unwrap_or_default());
    if own.is_empty() {
        let why = "name must be provided";
        return Err(Status::bad_request(format!("the name of the object ({asked} based on URL) was undeterminable: {why}")));
    }
    if own != asked {
        return Err(Status::bad_request(format!("the name of the object ({own}) does not match the name on the URL ({asked})")));
    }
    Ok(())
}

/// Kinds that a PUT makes if they are not there, and the body does not name a version.
fn creates(target: &Target, body: &dyn AnyObject) -> bool {
    let kinds: [&dyn Resource; 4] = [Endpoints::resource(), Event::resource(), Lease::resource(), Service::resource()];
    target.subresource.is_none()
        && body.meta().resource_version.as_deref().unwrap_or_default().is_empty()
        && body.meta().uid.as_deref().unwrap_or_default().is_empty()
        && kinds.iter().any(|k| k.names() == target.resource.names())
}
