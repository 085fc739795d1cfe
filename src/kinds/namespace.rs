//! Namespace (core/v1).

use super::{Kind, Names, Subresource};
use k8s_openapi::api::core::v1 as api;

pub struct Namespace;

impl Kind for Namespace {
    type Object = api::Namespace;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        categories: &[],
        namespaced: false,
    };
    const SUBRESOURCES: &'static [Subresource] =
        &[Subresource::Status, Subresource::Other { name: "finalize", group: "", version: "v1", kind: "Namespace", verbs: &["update"] }];
}
