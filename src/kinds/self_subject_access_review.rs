//! SelfSubjectAccessReview (authorization.k8s.io/v1).

use super::{Kind, Names, Storage, check};
use crate::meta::{FieldErrors, FieldPath, ObjectMeta};
use k8s_openapi::api::authorization::v1 as api;

pub struct SelfSubjectAccessReview;

impl Kind for SelfSubjectAccessReview {
    type Object = api::SelfSubjectAccessReview;

    const NAMES: Names = Names {
        group: "authorization.k8s.io",
        version: "v1",
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        short_names: &[],
        categories: &[],
        namespaced: false,
    };
    const STORAGE: Storage = Storage::Virtual;

    fn validate(object: &api::SelfSubjectAccessReview, errors: &mut FieldErrors) {
        let path = FieldPath::new("spec");
        let (resource, other) = (&object.spec.resource_attributes, &object.spec.non_resource_attributes);
        match (resource, other) {
            (Some(_), Some(other)) => {
                let why = "cannot be specified in combination with resourceAttributes";
                errors.invalid(&path.child("nonResourceAttributes"), check::json_of(other), why);
            }
            (None, None) => {
                let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
                errors.invalid(&path.child("resourceAttributes"), serde_json::Value::Null, why);
            }
            _ => {}
        }
        let known = ObjectMeta { managed_fields: object.metadata.managed_fields.clone(), ..ObjectMeta::default() };
        if object.metadata != known {
            errors.invalid(&FieldPath::new("metadata"), check::json_of(&object.metadata), "must be empty");
        }
    }
}
