//! ReplicaSet (apps/v1).

use super::{Kind, Names, Subresource};
use k8s_openapi::api::apps::v1 as api;

pub struct ReplicaSet;

impl Kind for ReplicaSet {
    type Object = api::ReplicaSet;

    const NAMES: Names = Names {
        group: "apps",
        version: "v1",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        namespaced: true,
    };
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status, Subresource::Scale];
    const HAS_GENERATION: bool = true;
}
