//! Event (core/v1).

use super::{Kind, Names};
use k8s_openapi::api::core::v1 as api;

pub struct Event;

impl Kind for Event {
    type Object = api::Event;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        categories: &[],
        namespaced: true,
    };
}
