//! Checks that many kinds share (apimachinery's and core's validation helpers).

use super::names;
use crate::meta::{FieldErrors, FieldPath, LabelSelector};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

pub const IMMUTABLE: &str = "field is immutable";

pub fn non_negative(path: &FieldPath, value: impl Into<i64>, errors: &mut FieldErrors) {
    let value = value.into();
    if value < 0 {
        errors.invalid(path, value, "must be greater than or equal to 0");
    }
}

pub fn immutable<T: PartialEq + Serialize>(path: &FieldPath, new: &T, old: &T, errors: &mut FieldErrors) {
    if new != old {
        errors.invalid(path, json_of(new), IMMUTABLE);
    }
}

/// A value as an error shows it.
pub fn json_of<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// True if the text is one of `allowed`; says so otherwise (`Required` if it is empty).
pub fn one_of(path: &FieldPath, value: &str, allowed: &[&str], errors: &mut FieldErrors) {
    if value.is_empty() {
        errors.required(path, "");
    } else if !allowed.contains(&value) {
        errors.not_supported(path, value, allowed);
    }
}

pub fn labels(path: &FieldPath, labels: Option<&BTreeMap<String, String>>, errors: &mut FieldErrors) {
    for (key, value) in labels.into_iter().flatten() {
        errors.all_invalid(path, key.as_str(), names::qualified(key));
        errors.all_invalid(path, value.as_str(), names::label_value(value));
    }
}

/// The most bytes that the annotations of an object may hold together.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

pub fn annotations(path: &FieldPath, annotations: Option<&BTreeMap<String, String>>, errors: &mut FieldErrors) {
    let mut total = 0;
    for (key, value) in annotations.into_iter().flatten() {
        errors.all_invalid(path, key.as_str(), names::qualified(&key.to_lowercase()));
        total += key.len() + value.len();
    }
    if total > MAX_ANNOTATION_BYTES {
        errors.too_long(path, MAX_ANNOTATION_BYTES);
    }
}

pub fn label_selector(path: &FieldPath, selector: &LabelSelector, errors: &mut FieldErrors) {
    labels(&path.child("matchLabels"), selector.match_labels.as_ref(), errors);
    for (i, term) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values = term.values.as_deref().unwrap_or_default();
        match term.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if values.is_empty() => {}
            "Exists" | "DoesNotExist" => {
                errors.forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        errors.all_invalid(&path.child("key"), term.key.as_str(), names::qualified(&term.key));
        for (i, value) in values.iter().enumerate() {
            errors.all_invalid(&path.child("values").index(i), value.as_str(), names::label_value(value));
        }
    }
}

/// True if every term has the values that its operator takes (what metav1.LabelSelectorAsSelector accepts).
pub fn is_sound(selector: &LabelSelector) -> bool {
    let texts = |values: Option<&Vec<String>>| values.is_none_or(|v| v.iter().all(|v| names::label_value(v).is_empty()));
    let pairs = selector.match_labels.iter().flatten();
    let terms = selector.match_expressions.iter().flatten();
    pairs.into_iter().all(|(k, v)| names::qualified(k).is_empty() && names::label_value(v).is_empty())
        && terms.into_iter().all(|t| {
            let some = t.values.as_ref().is_some_and(|v| !v.is_empty());
            some == matches!(t.operator.as_str(), "In" | "NotIn") && names::qualified(&t.key).is_empty() && texts(t.values.as_ref())
        })
}

/// A selector that names nothing.
pub fn selects_all(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty) && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// A port by number or by name.
pub fn port(path: &FieldPath, port: &IntOrString, errors: &mut FieldErrors) {
    match port {
        IntOrString::Int(number) => errors.all_invalid(path, *number, names::port_number(*number)),
        IntOrString::String(name) => errors.all_invalid(path, name.as_str(), names::port_name(name)),
    }
}

/// A count that is not negative, or a percentage.
pub fn count_or_percent(path: &FieldPath, value: &IntOrString, errors: &mut FieldErrors) {
    match value {
        IntOrString::Int(number) => non_negative(path, *number, errors),
        IntOrString::String(text) => errors.all_invalid(path, text.as_str(), names::percent(text)),
    }
}

/// The number of a count or of a valid percentage.
pub fn number_of(value: &IntOrString) -> i64 {
    match value {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(text) => text.trim_end_matches('%').parse().unwrap_or(0),
    }
}

pub fn at_most_100_percent(path: &FieldPath, value: &IntOrString, errors: &mut FieldErrors) {
    if let IntOrString::String(text) = value
        && names::percent(text).is_empty()
        && text.trim_end_matches('%').parse::<i64>().unwrap_or(i64::MAX) > 100
    {
        errors.invalid(path, text.as_str(), "must not be greater than 100%");
    }
}
