//! PodTemplate (core/v1).

use super::{Kind, Names};
use k8s_openapi::api::core::v1 as api;

pub struct PodTemplate;

impl Kind for PodTemplate {
    type Object = api::PodTemplate;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "PodTemplate",
        plural: "podtemplates",
        singular: "podtemplate",
        short_names: &[],
        categories: &[],
        namespaced: true,
    };
    const HAS_GENERATION: bool = true;
}
