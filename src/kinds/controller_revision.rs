//! ControllerRevision (apps/v1).

use super::{Kind, Names};
use k8s_openapi::api::apps::v1 as api;

pub struct ControllerRevision;

impl Kind for ControllerRevision {
    type Object = api::ControllerRevision;

    const NAMES: Names = Names {
        group: "apps",
        version: "v1",
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        short_names: &[],
        categories: &[],
        namespaced: true,
    };
}
