//! ConfigMap (core/v1): the model for a small kind.

use super::{Column, Kind, Names, table};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// The most bytes that data and binaryData may hold together (core validation's `MaxSecretSize`).
const MAX_BYTES: usize = 1024 * 1024;

pub struct ConfigMap;

impl Kind for ConfigMap {
    type Object = core::ConfigMap;

    const NAMES: Names = Names {
        group: "",
        version: "v1",
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        categories: &[],
        namespaced: true,
    };

    fn validate(object: &core::ConfigMap, errors: &mut FieldErrors) {
        let mut total = 0;
        let (data, binary) = (FieldPath::new("data"), FieldPath::new("binaryData"));
        for (key, value) in object.data.iter().flatten() {
            super::names::config_map_key(&data, key, errors);
            if object.binary_data.as_ref().is_some_and(|b| b.contains_key(key)) {
                errors.invalid(&data.key(key), key.as_str(), "duplicate of key present in binaryData");
            }
            total += value.len();
        }
        for (key, value) in object.binary_data.iter().flatten() {
            super::names::config_map_key(&binary, key, errors);
            total += value.0.len();
        }
        if total > MAX_BYTES {
            errors.too_long(&FieldPath::default(), MAX_BYTES);
        }
    }

    fn validate_update(new: &core::ConfigMap, old: &core::ConfigMap, errors: &mut FieldErrors) {
        if old.immutable != Some(true) {
            return;
        }
        let why = "field is immutable when `immutable` is set";
        if new.immutable != Some(true) {
            errors.forbidden(&FieldPath::new("immutable"), why);
        }
        if new.data != old.data {
            errors.forbidden(&FieldPath::new("data"), why);
        }
        if new.binary_data != old.binary_data {
            errors.forbidden(&FieldPath::new("binaryData"), why);
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column { name: "Data", kind: "string", format: "", description: "Number of keys in data and binaryData.", priority: 0 },
            table::AGE,
        ];
        COLUMNS
    }

    fn cells(object: &core::ConfigMap, now: Timestamp) -> Vec<Value> {
        let count = object.data.as_ref().map_or(0, |d| d.len()) + object.binary_data.as_ref().map_or(0, |d| d.len());
        vec![json!(object.metadata.name), json!(count), json!(table::age(&object.metadata, now))]
    }
}
