//! Validation errors with field paths, in the wording of apimachinery's `field.Error`.

use serde_json::Value;
use std::fmt;

/// A path to a field, rendered as `spec.containers[0].name` or `data[key]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath(String);

impl FieldPath {
    pub fn new(root: &str) -> Self {
        Self(root.to_owned())
    }
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }
    #[must_use]
    pub fn index(&self, i: usize) -> Self {
        Self(format!("{}[{i}]", self.0))
    }
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with a field; each variant has the reason that `metav1.StatusCause` carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorType {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    TooLong,
    TooMany,
    NotFound,
    TypeInvalid,
}

impl FieldErrorType {
    /// The cause's reason, such as `FieldValueRequired`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
        }
    }

    fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong)
    }
}

/// One invalid field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: FieldErrorType,
    pub path: String,
    pub value: Value,
    pub detail: String,
}

impl FieldError {
    /// The message without the path, as a `StatusCause` carries it.
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        if self.kind.shows_value() {
            text.push_str(": ");
            text.push_str(&self.value.to_string());
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// Collects the invalid fields of one object; empty means valid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldErrors(pub Vec<FieldError>);

impl FieldErrors {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn push(&mut self, kind: FieldErrorType, path: &FieldPath, value: impl Into<Value>, detail: impl Into<String>) {
        self.0.push(FieldError { kind, path: path.to_string(), value: value.into(), detail: detail.into() });
    }
    pub fn required(&mut self, path: &FieldPath, detail: impl Into<String>) {
        self.push(FieldErrorType::Required, path, Value::Null, detail);
    }
    pub fn invalid(&mut self, path: &FieldPath, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(FieldErrorType::Invalid, path, value, detail);
    }
    /// One error for each of `details`.
    pub fn all_invalid(&mut self, path: &FieldPath, value: impl Into<Value>, details: Vec<String>) {
        if details.is_empty() {
            return;
        }
        let value = value.into();
        for detail in details {
            self.invalid(path, value.clone(), detail);
        }
    }
    pub fn too_many(&mut self, path: &FieldPath, actual: usize, max: usize) {
        let items = if max == 1 { "item" } else { "items" };
        self.push(FieldErrorType::TooMany, path, actual, format!("must have at most {max} {items}"));
    }
    pub fn not_found(&mut self, path: &FieldPath, value: impl Into<Value>) {
        self.push(FieldErrorType::NotFound, path, value, "");
    }
    pub fn forbidden(&mut self, path: &FieldPath, detail: impl Into<String>) {
        self.push(FieldErrorType::Forbidden, path, Value::Null, detail);
    }
    pub fn duplicate(&mut self, path: &FieldPath, value: impl Into<Value>) {
        self.push(FieldErrorType::Duplicate, path, value, "");
    }
    pub fn too_long(&mut self, path: &FieldPath, max_bytes: usize) {
        self.push(
            FieldErrorType::TooLong,
            path,
            Value::Null,
            format!("may not be more than {max_bytes} byte{}", if max_bytes == 1 { "" } else { "s" }),
        );
    }
    /// `allowed` is listed quoted, in the order given.
    pub fn not_supported(&mut self, path: &FieldPath, value: impl Into<Value>, allowed: &[&str]) {
        let names: Vec<String> = allowed.iter().map(|a| format!("\"{a}\"")).collect();
        self.push(FieldErrorType::NotSupported, path, value, format!("supported values: {}", names.join(", ")));
    }
}
