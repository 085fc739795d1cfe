//! The syntax of names, keys and small texts in objects, with apimachinery's error texts (util/validation and
//! api/validate/content).
//!
//! A function that gives `Vec<String>` gives one text per broken rule, none if the value is fine.

use crate::meta::{FieldErrors, FieldPath};

/// What apimachinery says of a value that its regular expression does not match.
fn pattern(message: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{regex}')");
    }
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

fn too_long(characters: usize) -> String {
    format!("must be no more than {characters} characters")
}

const LABEL_REGEX: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_REGEX: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const KEY_REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// Non-empty, `inner` throughout, `edge` at both ends.
fn framed(text: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    match (text.as_bytes().first(), text.as_bytes().last()) {
        (Some(&first), Some(&last)) => edge(first) && edge(last) && text.bytes().all(inner),
        _ => false,
    }
}

fn lower_or_digit(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    framed(text, lower_or_digit, |c| lower_or_digit(c) || c == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// An RFC 1123 subdomain of at most 253 bytes: the name of most objects.
pub fn subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 253 {
        errors.push(too_long(253));
    }
    if !is_subdomain(value) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
        errors.push(pattern(message, SUBDOMAIN_REGEX, &["example.com"]));
    }
    errors
}

/// As `subdomain`, with underscores: what a resolver may search.
pub fn subdomain_with_underscore(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 253 {
        errors.push(too_long(253));
    }
    let is_part = |part: &str| {
        let part = part.strip_prefix('_').unwrap_or(part);
        framed(part, lower_or_digit, |c| lower_or_digit(c) || matches!(c, b'-' | b'_'))
    };
    if !value.split('.').all(is_part) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
        let regex = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
        errors.push(pattern(message, regex, &["example.com"]));
    }
    errors
}

/// An RFC 1123 label of at most 63 bytes: names of containers, volumes, namespaces.
pub fn label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(too_long(63));
    }
    if !is_label(value) {
        if is_subdomain(value) {
            errors.push("must not contain dots".into());
        } else {
            let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
            errors.push(pattern(message, LABEL_REGEX, &["my-name", "123-abc"]));
        }
    }
    errors
}

/// A DNS-1035 label of at most 63 bytes: names of services.
pub fn label_1035(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(too_long(63));
    }
    if !is_label(value) || !value.as_bytes()[0].is_ascii_lowercase() {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
        errors.push(pattern(message, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    errors
}

/// The key of a label or annotation: a name of at most 63 bytes, with an optional subdomain and slash before it.
pub fn qualified(value: &str) -> Vec<String> {
    const MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let text = || pattern(MESSAGE, KEY_REGEX, &["MyName", "my.name", "123-abc"]);
    let parts: Vec<&str> = value.split('/').collect();
    let mut errors = Vec::new();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".into());
            } else {
                errors.extend(subdomain(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            return vec![format!("a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')", text())];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        errors.push("name part must be no more than 63 bytes".into());
    }
    if !is_key(name) {
        errors.push(format!("name part {}", text()));
    }
    errors
}

fn is_key(text: &str) -> bool {
    framed(text, |c| c.is_ascii_alphanumeric(), |c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// The value of a label: empty, or at most 63 bytes.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push("must be no more than 63 bytes".into());
    }
    if !value.is_empty() && !is_key(value) {
        let message = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
        errors.push(pattern(message, &format!("({KEY_REGEX})?"), &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// The name of an environment variable, in the relaxed form that v1.35 takes.
pub fn env_var(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".into()];
    }
    if value.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".into()]
}

/// The name of a container's port: at most 15 of a-z, 0-9 and single hyphens inside, with a letter.
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 15 {
        errors.push(too_long(15));
    }
    if value.is_empty() || !value.bytes().all(|c| lower_or_digit(c) || c == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !value.bytes().any(|c| c.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

/// A port number, 1 to 65535.
pub fn port_number(value: i32) -> Vec<String> {
    in_range(i64::from(value), 1, 65535)
}

pub fn in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    if (low..=high).contains(&value) { Vec::new() } else { vec![format!("must be between {low} and {high}, inclusive")] }
}

/// The number of a user or a group: 0 to 2³¹ - 1.
pub fn user_or_group(value: i64) -> Vec<String> {
    in_range(value, 0, i64::from(i32::MAX))
}

/// The name of an HTTP header.
pub fn http_header(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return Vec::new();
    }
    vec![pattern("a valid HTTP header must consist of alphanumeric characters or '-'", "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// `25%`.
pub fn percent(value: &str) -> Vec<String> {
    match value.strip_suffix('%') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) => Vec::new(),
        _ => vec![pattern("a valid percent string must be a numeric string followed by an ending '%'", "[0-9]+%", &["1%", "93%"])],
    }
}

/// A key of a ConfigMap's or Secret's data.
pub fn data_key(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 253 {
        errors.push(too_long(253));
    }
    if value.is_empty() || !value.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.')) {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        errors.push(pattern(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    match value {
        "." => errors.push("must not be '.'".into()),
        ".." => errors.push("must not be '..'".into()),
        _ if value.starts_with("..") => errors.push("must not start with '..'".into()),
        _ => {}
    }
    errors
}

/// As `subdomain`, with the first text as the error.
///
/// # Errors
/// The text that a client is shown.
pub fn dns_subdomain(name: &str) -> Result<(), String> {
    first(subdomain(name))
}

/// As `label`, with the first text as the error.
///
/// # Errors
/// The text that a client is shown.
pub fn dns_label(name: &str) -> Result<(), String> {
    first(label(name))
}

/// As `label_1035`, with the first text as the error.
///
/// # Errors
/// The text that a client is shown.
pub fn dns_label_1035(name: &str) -> Result<(), String> {
    first(label_1035(name))
}

fn first(errors: Vec<String>) -> Result<(), String> {
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// A key of a ConfigMap's or Secret's data, at `path[key]`.
pub fn config_map_key(path: &FieldPath, key: &str, errors: &mut FieldErrors) {
    errors.all_invalid(&path.key(key), key, data_key(key));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rules() {
        type Rule = fn(&str) -> Vec<String>;
        let cases: [(Rule, &[&str], &[&str]); 8] = [
            (label, &["a", "a-b", "0"], &["", "-a", "a-", "A", "a.b", "a_b"]),
            (subdomain, &["a.b", "example.com", "1.2"], &["", ".a", "a..b", "a.", "A.b"]),
            (label_1035, &["a", "a1-b"], &["", "1a", "a-", "a.b"]),
            (qualified, &["a", "A_b.c", "example.com/x"], &["", "/a", "a/", "a/b/c", "-a", "Ex.com/a"]),
            (label_value, &["", "a", "A.b_c-1"], &["-a", "a b", "a/b"]),
            (port_name, &["http", "a-1"], &["", "80", "a--b", "-a", "Http", "waytoolongportname"]),
            (data_key, &["a", ".a", "A_B.c"], &["", ".", "..", "..a", "a/b"]),
            (env_var, &["A", "a.b", "1a", "a b"], &["", "a=b", "\u{e9}"]),
        ];
        for (rule, good, bad) in cases {
            good.iter().for_each(|v| assert!(rule(v).is_empty(), "{v:?}: {:?}", rule(v)));
            bad.iter().for_each(|v| assert!(!rule(v).is_empty(), "{v:?} passed"));
        }
    }

    #[test]
    fn texts_are_those_of_apimachinery() {
        assert_eq!(
            label("A_"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            qualified("a/"),
            [
                "name part must be non-empty",
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_answered(text in ".{0,80}") {
            for rule in [label, subdomain, label_1035, qualified, label_value, port_name, data_key, env_var, percent, http_header] {
                rule(&text).iter().for_each(|e| assert!(!e.is_empty()));
            }
        }
    }
}
