//! SelfSubjectRulesReview (authorization.k8s.io/v1).

use super::{Kind, Names, Storage};
use k8s_openapi::api::authorization::v1 as api;

pub struct SelfSubjectRulesReview;

impl Kind for SelfSubjectRulesReview {
    type Object = api::SelfSubjectRulesReview;

    const NAMES: Names = Names {
        group: "authorization.k8s.io",
        version: "v1",
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        short_names: &[],
        categories: &[],
        namespaced: false,
    };
    const STORAGE: Storage = Storage::Virtual;
}
