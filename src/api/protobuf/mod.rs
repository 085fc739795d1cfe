//! Protobuf request bodies, as typed clients send them: `k8s\0`, then a `runtime.Unknown` that carries the object. They
//! become JSON by the schema of types alone, so that the verbs know one form.
//!
//! May import: meta, api::schema. Pure and bounded: depth by `decode::MAX_DEPTH`, size by the caller's limit on the body.

mod decode;
pub mod wire;

use crate::api::schema::{Type, schema};
use crate::meta::{GroupVersion, GroupVersionKind, Status};
use serde_json::Value;
use thiserror::Error;
use wire::{Field, Reader};

pub const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every Kubernetes protobuf body begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Why a body is no object.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProtobufError {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    #[error("the protobuf message is damaged: {0}")]
    Wire(&'static str),
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\" in scheme")]
    UnknownKind { api_version: String, kind: String },
    #[error("content encoding \"{0}\" is not supported")]
    Encoding(String),
    #[error("raw JSON inside the message: {0}")]
    Json(String),
    #[error("the message nests too deeply")]
    TooDeep,
}

impl From<ProtobufError> for Status {
    fn from(error: ProtobufError) -> Self {
        Self::bad_request(error.to_string())
    }
}

/// A `runtime.Unknown`, taken apart.
#[derive(Default)]
struct Unknown<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
    encoding: &'a str,
    content_type: &'a str,
}

impl<'a> Unknown<'a> {
    fn parse(body: &'a [u8]) -> Result<Self, ProtobufError> {
        let rest = body.strip_prefix(MAGIC).ok_or(ProtobufError::Prefix)?;
        let mut out = Self::default();
        let mut fields = Reader::new(rest);
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (1, Field::Bytes(type_meta)) => out.parse_type_meta(type_meta)?,
                (2, Field::Bytes(raw)) => out.raw = raw,
                (3, field) => out.encoding = field.text()?,
                (4, field) => out.content_type = field.text()?,
                _ => {}
            }
        }
        Ok(out)
    }

    fn parse_type_meta(&mut self, bytes: &'a [u8]) -> Result<(), ProtobufError> {
        let mut fields = Reader::new(bytes);
        while let Some((number, field)) = fields.next()? {
            match number {
                1 => self.api_version = field.text()?,
                2 => self.kind = field.text()?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// The object of a protobuf body, with its apiVersion and kind. A body that names no kind is taken for `default`.
///
/// # Errors
/// The body is no such message, or of a kind that the schema does not have.
pub fn to_value(body: &[u8], default: Option<&GroupVersionKind>) -> Result<Value, ProtobufError> {
    value_of_unknown(body, default, 0)
}

/// As `to_value`, written as JSON.
///
/// # Errors
/// See `to_value`.
pub fn to_json(body: &[u8], default: Option<&GroupVersionKind>) -> Result<Vec<u8>, ProtobufError> {
    let value = to_value(body, default)?;
    serde_json::to_vec(&value).map_err(|e| ProtobufError::Json(e.to_string()))
}

fn value_of_unknown(body: &[u8], default: Option<&GroupVersionKind>, depth: usize) -> Result<Value, ProtobufError> {
    let unknown = Unknown::parse(body)?;
    if !unknown.encoding.is_empty() {
        return Err(ProtobufError::Encoding(unknown.encoding.to_owned()));
    }
    if unknown.content_type == "application/json" {
        return serde_json::from_slice(unknown.raw).map_err(|e| ProtobufError::Json(e.to_string()));
    }
    let (api_version, kind) = match default {
        Some(gvk) if unknown.kind.is_empty() => (gvk.api_version(), gvk.kind.clone()),
        _ => (unknown.api_version.to_owned(), unknown.kind.to_owned()),
    };
    let Some(Type::Object(at)) = type_of(&api_version, &kind) else {
        return Err(ProtobufError::UnknownKind { api_version, kind });
    };
    let mut object = serde_json::Map::new();
    decode::object(schema().get(*at), unknown.raw, depth, &mut object)?;
    object.insert("apiVersion".into(), Value::String(api_version));
    object.insert("kind".into(), Value::String(kind));
    Ok(Value::Object(object))
}

/// Options and Status are kinds of every group and version; their types are those of the core group.
fn type_of(api_version: &str, kind: &str) -> Option<&'static Type> {
    let gv = GroupVersion::parse(api_version)?;
    schema().kind(&gv.group, &gv.version, kind).or_else(|| {
        let shared = kind.ends_with("Options") || matches!(kind, "Status" | "WatchEvent");
        if shared { schema().kind("", "v1", kind) } else { None }
    })
}

#[cfg(test)]
pub(crate) mod tests;
