//! EndpointSlice (discovery.k8s.io/v1).

use super::{Kind, Names};
use k8s_openapi::api::discovery::v1 as api;

pub struct EndpointSlice;

impl Kind for EndpointSlice {
    type Object = api::EndpointSlice;

    const NAMES: Names = Names {
        group: "discovery.k8s.io",
        version: "v1",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        short_names: &[],
        categories: &[],
        namespaced: true,
    };
    const HAS_GENERATION: bool = true;
}
