//! Endpoints (core/v1).

use super::{Kind, Names};
use k8s_openapi::api::core::v1 as api;

pub struct Endpoints;

impl Kind for Endpoints {
    type Object = api::Endpoints;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        categories: &[],
        namespaced: true,
    };
}
