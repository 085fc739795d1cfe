//! SelfSubjectAccessReview (authorization.k8s.io/v1).

use super::{Kind, Names, Storage};
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
}
