//! SelfSubjectReview (authentication.k8s.io/v1).

use super::{Kind, Names, Storage};
use k8s_openapi::api::authentication::v1 as api;

pub struct SelfSubjectReview;

impl Kind for SelfSubjectReview {
    type Object = api::SelfSubjectReview;

    const NAMES: Names = Names {
        group: "authentication.k8s.io",
        version: "v1",
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        short_names: &[],
        categories: &[],
        namespaced: false,
    };
    const STORAGE: Storage = Storage::Virtual;
}
