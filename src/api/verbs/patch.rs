//! patch: the change is worked out on the JSON of the present object, and what comes out goes the way of an update.

use super::Verbs;
use super::decode::{Decoded, decode_or_misfit};
use super::duplicates::duplicates;
use super::update::{body_of, check_name, part_of};
use crate::api::patch::{PatchKind, json, merge, strategic};
use crate::api::requests::{Answer, FieldValidation, WriteOptions};
use crate::api::schema::Shape;
use crate::client::Target;
use crate::kinds::Object;
use crate::meta::{FieldErrors, FieldPath, Reason, Status};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;

impl Verbs {
    /// PATCH; the body is JSON (an Apply's YAML has become JSON).
    ///
    /// # Errors
    /// What Kubernetes answers.
    pub async fn patch(&self, target: &Target, kind: PatchKind, json: Bytes, options: &WriteOptions) -> Result<Answer, Status> {
        if target.subresource == Some("scale") {
            return self.patch_scale(target, kind, &json, options).await;
        }
        if kind == PatchKind::Apply {
            return self.apply(target, &json, options).await;
        }
        let part = part_of(target)?;
        let twice = match options.field_validation {
            FieldValidation::Ignore => Vec::new(),
            FieldValidation::Warn | FieldValidation::Strict => doubled(&json),
        };
        if options.field_validation == FieldValidation::Strict && !twice.is_empty() {
            return Err(misfit(&json, &format!("strict decoding error: {}", twice.join(", "))));
        }
        let make = |old: &Arc<Object>| patched(target, kind, &json, options, &twice, old);
        self.change(target, part, options, &make).await.map(Answer::Written)
    }
}

fn patched(
    target: &Target,
    kind: PatchKind,
    json: &[u8],
    options: &WriteOptions,
    twice: &[String],
    old: &Arc<Object>,
) -> Result<Decoded, Status> {
    let n = target.resource.names();
    let document: Value = serde_json::from_slice(old.json()).map_err(Status::internal)?;
    let next = apply(&document, kind, json, Shape::of_kind(n.group, n.version, n.kind))?;
    let bytes = serde_json::to_vec(&next).map_err(Status::internal)?;
    let decoded = decode_or_misfit(target.resource, &bytes, options.field_validation).map_err(|m| misfit(json, &m.0))?;
    check_name(target, &*decoded.object)?;
    let object = body_of(target, decoded.object, old)?;
    let warnings = decoded.warnings.into_iter().chain(twice.iter().cloned()).collect();
    Ok(Decoded { object, warnings })
}

/// The document after the patch.
pub(super) fn apply(document: &Value, kind: PatchKind, body: &[u8], shape: Shape) -> Result<Value, Status> {
    match kind {
        PatchKind::Json => json::apply(document, body),
        PatchKind::Merge => merge::apply(document, body),
        PatchKind::Strategic => strategic::apply(document, body, shape),
        PatchKind::Apply => return Err(no_apply()),
    }
    .map_err(Status::from)
}

fn doubled(json: &[u8]) -> Vec<String> {
    duplicates(json).iter().map(|path| format!("duplicate field \"{path}\"")).collect()
}

/// 422: the patch leads to something that is no object of the kind.
fn misfit(patch: &[u8], why: &str) -> Status {
    let mut errors = FieldErrors::default();
    errors.invalid(&FieldPath::new("patch"), String::from_utf8_lossy(patch).into_owned(), why);
    Status::invalid("", "", "", &errors)
}

fn no_apply() -> Status {
    let known = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";
    let message = format!("the body of the request was in an unknown format - accepted media types include: {known}");
    Status::new(Reason::UnsupportedMediaType, message)
}
