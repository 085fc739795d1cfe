//! Event (core/v1).

use super::fill::str_of;
use super::{Column, Kind, Names, fill, names, table};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

const MAX_WORD_BYTES: usize = 128;
const MAX_MESSAGE_BYTES: usize = 1024;
const OTHER_NAMESPACE: &str = "does not match event.namespace";

pub const COLUMNS: &[Column] = &[
    table::text("Last Seen", "The time at which the most recent occurrence of this event was recorded.", 0),
    table::text("Type", "Type of this event (Normal, Warning), new types could be added in the future", 0),
    table::text("Reason", "A short, machine understandable reason for the transition into the object's current status.", 0),
    table::text("Object", "The object that this event is about.", 0),
    table::text("Subobject", "The part of the object that this event is about.", 1),
    table::text("Source", "The component reporting this event.", 1),
    table::text("Message", "A human-readable description of the status of this operation.", 0),
    table::text("First Seen", "The time at which the event was first recorded.", 1),
    table::text("Count", "The number of times this event has occurred.", 1),
    Column { priority: 1, ..table::NAME },
];

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

    fn default(object: &mut api::Event) {
        for text in [&mut object.reporting_component, &mut object.reporting_instance] {
            fill::or(text, String::new());
        }
        object.source.get_or_insert_default();
    }

    fn validate(object: &api::Event, errors: &mut FieldErrors) {
        validate(object, "reportingComponent", errors);
    }

    fn columns() -> &'static [Column] {
        COLUMNS
    }

    fn cells(object: &api::Event, now: Timestamp) -> Vec<Value> {
        cells(object, now)
    }

    const SELECTABLE: &'static [&'static str] = &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "type",
        "source",
    ];

    fn selectable(object: &api::Event) -> Vec<String> {
        selectable(object)
    }
}

/// Checks of every event, old style (no eventTime) and new; `controller_field` is what the API version calls the
/// reporting controller.
pub fn validate(event: &api::Event, controller_field: &str, errors: &mut FieldErrors) {
    let namespace = str_of(&event.metadata.namespace);
    let about = str_of(&event.involved_object.namespace);
    let path = FieldPath::new("involvedObject").child("namespace");
    if event.event_time.is_none() {
        let fits = if about.is_empty() { matches!(namespace, "" | "default") } else { namespace == about };
        if !fits {
            errors.invalid(&path, about, OTHER_NAMESPACE);
        }
    } else {
        if about.is_empty() && !matches!(namespace, "default" | "kube-system") {
            errors.invalid(&path, about, OTHER_NAMESPACE);
        }
        let controller = str_of(&event.reporting_component);
        if controller.is_empty() {
            errors.required(&FieldPath::new(controller_field), "");
        }
        errors.all_invalid(&FieldPath::new(controller_field), controller, names::qualified(controller));
        for (field, value) in [("reportingInstance", &event.reporting_instance), ("action", &event.action), ("reason", &event.reason)] {
            if str_of(value).is_empty() {
                errors.required(&FieldPath::new(field), "");
            }
            at_most(&FieldPath::new(field), str_of(value), MAX_WORD_BYTES, errors);
        }
        at_most(&FieldPath::new("message"), str_of(&event.message), MAX_MESSAGE_BYTES, errors);
    }
    errors.all_invalid(&FieldPath::new("namespace"), namespace, names::subdomain(namespace));
}

fn at_most(path: &FieldPath, text: &str, bytes: usize, errors: &mut FieldErrors) {
    if text.len() > bytes {
        errors.invalid(path, "", format!("can have at most {bytes} characters"));
    }
}

pub fn cells(event: &api::Event, now: Timestamp) -> Vec<Value> {
    let first = event.first_timestamp.as_ref().map(|t| t.0).or(event.event_time.as_ref().map(|t| t.0));
    let last = event.last_timestamp.as_ref().map(|t| t.0).or(first);
    let (last, count) = match &event.series {
        Some(series) => (series.last_observed_time.as_ref().map(|t| t.0), series.count.unwrap_or_default()),
        None => (last, event.count.filter(|c| *c != 0).unwrap_or(1)),
    };
    let about = &event.involved_object;
    let kind = str_of(&about.kind).to_lowercase();
    let target = about.name.as_deref().filter(|n| !n.is_empty()).map_or_else(|| kind.clone(), |name| format!("{kind}/{name}"));
    let source = event.source.clone().unwrap_or_default();
    let first_of = |a: &Option<String>, b: &Option<String>| if str_of(a).is_empty() { str_of(b).to_owned() } else { str_of(a).to_owned() };
    let component = first_of(&source.component, &event.reporting_component);
    let instance = first_of(&source.host, &event.reporting_instance);
    vec![
        json!(table::since(last, now)),
        json!(str_of(&event.type_)),
        json!(str_of(&event.reason)),
        json!(target),
        json!(str_of(&about.field_path)),
        json!(if instance.is_empty() { component } else { format!("{component}, {instance}") }),
        json!(str_of(&event.message).trim()),
        json!(table::since(first, now)),
        json!(count),
        json!(event.metadata.name),
    ]
}

/// Values of the selectable fields, in the order of `Event::SELECTABLE`.
pub fn selectable(event: &api::Event) -> Vec<String> {
    let about = &event.involved_object;
    let component = event.source.as_ref().map_or("", |s| str_of(&s.component));
    let reporting = str_of(&event.reporting_component);
    let values = [
        str_of(&about.kind),
        str_of(&about.namespace),
        str_of(&about.name),
        str_of(&about.uid),
        str_of(&about.api_version),
        str_of(&about.resource_version),
        str_of(&about.field_path),
        str_of(&event.reason),
        reporting,
        str_of(&event.type_),
        if component.is_empty() { reporting } else { component },
    ];
    values.map(str::to_owned).to_vec()
}
