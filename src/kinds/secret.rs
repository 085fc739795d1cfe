//! Secret (core/v1).

use super::{Kind, Names};
use k8s_openapi::api::core::v1 as api;

pub struct Secret;

impl Kind for Secret {
    type Object = api::Secret;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        short_names: &[],
        categories: &[],
        namespaced: true,
    };
}
