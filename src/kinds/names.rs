//! Names and keys that objects may have (RFC 1123 labels and subdomains, config map keys, qualified label keys),
//! with apimachinery's error texts.

use crate::meta::{FieldErrors, FieldPath};

/// The text that apimachinery gives for a subdomain that does not match.
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

fn is_label(text: &str) -> bool {
    let ok = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => ok(first) && ok(last) && bytes.iter().all(|&c| ok(c) || c == b'-'),
        _ => false,
    }
}

/// An RFC 1123 subdomain of at most 253 bytes.
///
/// # Errors
/// The text that a client is shown.
pub fn dns_subdomain(name: &str) -> Result<(), String> {
    if name.len() > 253 {
        return Err("must be no more than 253 characters".into());
    }
    if name.split('.').all(is_label) { Ok(()) } else { Err(SUBDOMAIN.into()) }
}

/// An RFC 1123 label of at most 63 bytes.
///
/// # Errors
/// The text that a client is shown.
pub fn dns_label(name: &str) -> Result<(), String> {
    if name.len() > 63 {
        return Err("must be no more than 63 characters".into());
    }
    if is_label(name) { Ok(()) } else { Err(LABEL.into()) }
}

/// A key of a ConfigMap's or Secret's data.
pub fn config_map_key(path: &FieldPath, key: &str, errors: &mut FieldErrors) {
    let ok = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if key.len() > 253 {
        errors.invalid(&path.key(key), key, "must be no more than 253 characters");
    }
    if key.is_empty() || !key.bytes().all(ok) {
        let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
        errors.invalid(&path.key(key), key, why);
    }
    if key == "." || key == ".." || key.starts_with("..") {
        errors.invalid(&path.key(key), key, "must not be '.' or start with '..'");
    }
}
