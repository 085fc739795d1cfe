//! What label keys and values may look like, in apimachinery's words (`content.IsLabelKey`, `IsLabelValue`).

const KEY: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const PREFIX: &str = "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
/// The most bytes of a key's name part and of a value.
const MAX: usize = 63;
const MAX_PREFIX: usize = 253;

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

fn is_subdomain(text: &str) -> bool {
    let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    text.split('.').map(str::as_bytes).all(|label| {
        let inner = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-';
        edge(label.first()) && edge(label.last()) && label.iter().all(inner)
    })
}

/// What is wrong with a label key (also of an annotation or finalizer); nothing if it is valid.
pub fn key_errors(key: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts: Vec<&str> = key.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                if prefix.len() > MAX_PREFIX {
                    errors.push(format!("prefix part must be no more than {MAX_PREFIX} characters"));
                }
                if !is_subdomain(prefix) {
                    errors.push(PREFIX.to_owned());
                }
            }
            name
        }
        _ => return vec![format!("a valid label key {KEY} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")],
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > MAX {
        errors.push(format!("name part must be no more than {MAX} characters"));
    }
    if !is_name(name) {
        errors.push(format!("name part {KEY}"));
    }
    errors
}

/// What is wrong with a label value; nothing if it is valid.
pub fn value_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > MAX {
        errors.push(format!("must be no more than {MAX} characters"));
    }
    if !value.is_empty() && !is_name(value) {
        errors.push(VALUE.to_owned());
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values() {
        for good in ["a", "A.b_c-1", "example.com/name", "k8s.io/x"] {
            assert!(key_errors(good).is_empty(), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "/a", "a/", "a/b/c", "Example.com/a", &"x".repeat(64)] {
            assert!(!key_errors(bad).is_empty(), "{bad}");
        }
        assert!(value_errors("").is_empty() && value_errors("1.0_x").is_empty());
        assert!(!value_errors("a b").is_empty() && !value_errors("a/b").is_empty() && value_errors(&"x".repeat(64)).len() == 1);
    }
}
