//! Deployment (apps/v1).

use super::{Kind, Names, Subresource};
use k8s_openapi::api::apps::v1 as api;

pub struct Deployment;

impl Kind for Deployment {
    type Object = api::Deployment;

    const NAMES: Names = Names {
        group: "apps",
        version: "v1",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        namespaced: true,
    };
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status, Subresource::Scale];
    const HAS_GENERATION: bool = true;
}
