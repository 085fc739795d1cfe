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
            let object = body_of(target, body.object.clone_box(), old)?;
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

/// The new object of a body: of subresources that change a part of a pod alone, the old pod with that part.
pub(super) fn body_of(target: &Target, body: Box<dyn AnyObject>, old: &Object) -> Result<Box<dyn AnyObject>, Status> {
    match target.subresource {
        Some("resize") => pods::resized(body, old),
        Some("ephemeralcontainers") => pods::with_ephemeral_containers(body, old),
        _ => Ok(body),
    }
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
