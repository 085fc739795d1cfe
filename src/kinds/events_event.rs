//! Event (events.k8s.io/v1).

use super::{Kind, Names, Storage};
use k8s_openapi::api::events::v1 as api;

pub struct EventsEvent;

impl Kind for EventsEvent {
    type Object = api::Event;

    const NAMES: Names = Names {
        group: "events.k8s.io",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        categories: &[],
        namespaced: true,
    };
    const STORAGE: Storage = Storage::ViewOf { group: "", plural: "events" };
}
