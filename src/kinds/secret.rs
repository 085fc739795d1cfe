//! Secret (core/v1).

use super::{Column, Kind, Names, check, fill, names, table};
use crate::meta::{FieldErrors, FieldPath};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The most bytes that the values of a Secret may hold together.
const MAX_BYTES: usize = 1024 * 1024;
const ACCOUNT_ANNOTATION: &str = "kubernetes.io/service-account.name";

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

    /// `stringData` is a way to write `data` and never read back.
    fn default(object: &mut api::Secret) {
        for (key, text) in object.string_data.take().into_iter().flatten() {
            object.data.get_or_insert_default().insert(key, ByteString(text.into_bytes()));
        }
        fill::text(&mut object.type_, "Opaque");
    }

    fn validate(object: &api::Secret, errors: &mut FieldErrors) {
        let path = FieldPath::new("data");
        for key in object.data.iter().flatten().map(|(key, _)| key) {
            errors.all_invalid(&path.key(key), key.as_str(), names::data_key(key));
        }
        if object.data.iter().flatten().map(|(_, value)| value.0.len()).sum::<usize>() > MAX_BYTES {
            errors.too_long(&path, MAX_BYTES);
        }
        validate_type(object, &path, errors);
    }

    fn validate_update(new: &api::Secret, old: &api::Secret, errors: &mut FieldErrors) {
        check::immutable(&FieldPath::new("type"), &new.type_, &old.type_, errors);
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
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::text("Type", "Used to facilitate programmatic handling of secret data.", 0),
            table::text("Data", "Number of keys in data.", 0),
            table::AGE,
        ];
        COLUMNS
    }

    fn cells(object: &api::Secret, now: Timestamp) -> Vec<Value> {
        let count = object.data.as_ref().map_or(0, BTreeMap::len);
        vec![json!(object.metadata.name), json!(fill::str_of(&object.type_)), json!(count), json!(table::age(&object.metadata, now))]
    }

    const SELECTABLE: &'static [&'static str] = &["type"];

    fn selectable(object: &api::Secret) -> Vec<String> {
        vec![fill::str_of(&object.type_).to_owned()]
    }
}

/// What each well-known type must hold.
fn validate_type(object: &api::Secret, path: &FieldPath, errors: &mut FieldErrors) {
    let none = BTreeMap::new();
    let data = object.data.as_ref().unwrap_or(&none);
    let require = |keys: &[&str], errors: &mut FieldErrors| {
        keys.iter().filter(|k| !data.contains_key(**k)).for_each(|k| errors.required(&path.key(k), ""));
    };
    match fill::str_of(&object.type_) {
        "kubernetes.io/service-account-token" => {
            let account = object.metadata.annotations.as_ref().and_then(|a| a.get(ACCOUNT_ANNOTATION));
            if account.is_none_or(String::is_empty) {
                errors.required(&FieldPath::new("metadata").child("annotations").key(ACCOUNT_ANNOTATION), "");
            }
        }
        "kubernetes.io/dockercfg" => validate_json(data, ".dockercfg", path, errors),
        "kubernetes.io/dockerconfigjson" => validate_json(data, ".dockerconfigjson", path, errors),
        "kubernetes.io/basic-auth" if !data.contains_key("username") && !data.contains_key("password") => {
            require(&["username", "password"], errors);
        }
        "kubernetes.io/ssh-auth" if data.get("ssh-privatekey").is_none_or(|v| v.0.is_empty()) => {
            errors.required(&path.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => require(&["tls.crt", "tls.key"], errors),
        _ => {}
    }
}

fn validate_json(data: &BTreeMap<String, ByteString>, key: &str, path: &FieldPath, errors: &mut FieldErrors) {
    match data.get(key).map(|v| serde_json::from_slice::<serde_json::Map<String, Value>>(&v.0)) {
        None => errors.required(&path.key(key), ""),
        Some(Err(e)) => errors.invalid(&path.key(key), "<secret contents redacted>", e.to_string()),
        Some(Ok(_)) => {}
    }
}
