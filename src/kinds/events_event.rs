//! Event (events.k8s.io/v1).

use super::fill::str_of;
use super::{Column, Kind, Names, Storage, check, event};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::events::v1 as api;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// What core events call the fields of this kind.
const NAMES_IN_CORE: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

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

    fn default(object: &mut api::Event) {
        object.deprecated_source.get_or_insert_default();
        object.regarding.get_or_insert_default();
    }

    fn validate(object: &api::Event, errors: &mut FieldErrors) {
        event::validate(&as_core(object), "reportingController", errors);
    }

    /// Events made through this group are new ones: their old fields stay unset.
    fn validate_create(object: &api::Event, errors: &mut FieldErrors) {
        validate_series(object, errors);
        if object.event_time.is_none() {
            errors.required(&FieldPath::new("eventTime"), "");
        }
        let kind = str_of(&object.type_);
        if !matches!(kind, "Normal" | "Warning") {
            errors.invalid(&FieldPath::new("type"), "", format!("has invalid value: {kind}"));
        }
        let source = object.deprecated_source.as_ref();
        let has_source = source.is_some_and(|s| !str_of(&s.component).is_empty() || !str_of(&s.host).is_empty());
        for (field, set) in [
            ("firstTimestamp", object.deprecated_first_timestamp.is_some()),
            ("lastTimestamp", object.deprecated_last_timestamp.is_some()),
            ("count", object.deprecated_count.unwrap_or_default() != 0),
            ("source", has_source),
        ] {
            if set {
                errors.invalid(&FieldPath::new(field), "", "needs to be unset");
            }
        }
    }

    /// Only the series goes on.
    fn validate_update(new: &api::Event, old: &api::Event, errors: &mut FieldErrors) {
        if new.series != old.series {
            validate_series(new, errors);
        }
        let (new, old) = (as_core(new), as_core(old));
        check::immutable(&FieldPath::new("involvedObject"), &new.involved_object, &old.involved_object, errors);
        check::immutable(&FieldPath::new("source"), &new.source, &old.source, errors);
        check::immutable(&FieldPath::new("firstTimestamp"), &new.first_timestamp, &old.first_timestamp, errors);
        check::immutable(&FieldPath::new("lastTimestamp"), &new.last_timestamp, &old.last_timestamp, errors);
        check::immutable(&FieldPath::new("count"), &new.count, &old.count, errors);
        check::immutable(&FieldPath::new("eventTime"), &new.event_time, &old.event_time, errors);
        check::immutable(&FieldPath::new("related"), &new.related, &old.related, errors);
        for (field, new, old) in [
            ("reason", &new.reason, &old.reason),
            ("message", &new.message, &old.message),
            ("type", &new.type_, &old.type_),
            ("action", &new.action, &old.action),
            ("reportingController", &new.reporting_component, &old.reporting_component),
            ("reportingInstance", &new.reporting_instance, &old.reporting_instance),
        ] {
            check::immutable(&FieldPath::new(field), &str_of(new), &str_of(old), errors);
        }
    }

    fn columns() -> &'static [Column] {
        event::COLUMNS
    }

    fn cells(object: &api::Event, now: Timestamp) -> Vec<Value> {
        event::cells(&as_core(object), now)
    }

    const SELECTABLE: &'static [&'static str] = &[
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ];

    fn selectable(object: &api::Event) -> Vec<String> {
        let mut values = event::selectable(&as_core(object));
        values.truncate(Self::SELECTABLE.len());
        values
    }

    fn from_stored(stored: Value) -> Value {
        renamed(stored, "events.k8s.io/v1", |(here, core)| (core, here))
    }

    fn to_stored(view: Value) -> Value {
        renamed(view, "v1", |(here, core)| (here, core))
    }
}

/// Renames fields as `names` pairs them (from, to) and sets the apiVersion.
fn renamed(mut value: Value, api_version: &str, names: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str)) -> Value {
    if let Some(object) = value.as_object_mut() {
        for (from, to) in NAMES_IN_CORE.iter().copied().map(names) {
            if let Some(field) = object.remove(from) {
                object.insert(to.to_owned(), field);
            }
        }
        object.insert("apiVersion".to_owned(), Value::from(api_version));
    }
    value
}

fn as_core(event: &api::Event) -> core::Event {
    core::Event {
        metadata: event.metadata.clone(),
        action: event.action.clone(),
        count: event.deprecated_count,
        event_time: event.event_time.clone(),
        first_timestamp: event.deprecated_first_timestamp.clone(),
        involved_object: event.regarding.clone().unwrap_or_default(),
        last_timestamp: event.deprecated_last_timestamp.clone(),
        message: event.note.clone(),
        reason: event.reason.clone(),
        related: event.related.clone(),
        reporting_component: event.reporting_controller.clone(),
        reporting_instance: event.reporting_instance.clone(),
        series: event
            .series
            .as_ref()
            .map(|s| core::EventSeries { count: Some(s.count), last_observed_time: Some(s.last_observed_time.clone()) }),
        source: event.deprecated_source.clone(),
        type_: event.type_.clone(),
    }
}

fn validate_series(event: &api::Event, errors: &mut FieldErrors) {
    if event.series.as_ref().is_some_and(|s| s.count < 2) {
        errors.invalid(&FieldPath::new("series.count"), "", "should be at least 2");
    }
}
