//! OpenAPI documents: v3, one for each group and version, and v2, one for all, as JSON and in gnostic's protobuf.
//!
//! May import: meta, kinds, api::schema, api::discovery, api::patch, api::protobuf (its wire writer). Types and texts
//! come from k8s-openapi's schemas, how patches merge from `api::schema`, paths from the resources. A document is made
//! when it is first asked for, and only its bytes are kept.

mod gnostic;
mod paths;
mod schemas;
mod v2;

use super::discovery;
use crate::kinds::{self, Resource};
use crate::meta::GroupVersion;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

/// What the protobuf form is answered as. Clients ask with an `@` before `v1.0`, which Go no longer takes in an answer.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Grows when this module writes other documents than before; part of every hash, so that no client keeps an old one.
const REVISION: u32 = 1;

/// The version that the API server gives itself.
pub fn git_version() -> String {
    format!("v1.35.4+orchd-{}", env!("CARGO_PKG_VERSION"))
}

/// What tells one document from another, without making it: a document follows from the program and its resources.
pub fn hash(gv: Option<&GroupVersion>) -> String {
    let mut hasher = Sha256::new();
    hasher.update(format!("{REVISION} {} {}", git_version(), gv.map(ToString::to_string).unwrap_or_default()));
    for names in kinds::all().iter().map(|r| r.names()) {
        hasher.update(format!("{} {} {} {}\n", names.group, names.version, names.kind, names.plural));
    }
    hasher.finalize().iter().map(|b| format!("{b:02X}")).collect()
}

/// `/openapi/v3`: where the document of each group and version is.
pub fn index() -> Value {
    let mut out = Map::new();
    for gv in discovery::group_versions(kinds::all()) {
        let path = if gv.group.is_empty() { format!("api/{}", gv.version) } else { format!("apis/{gv}") };
        let url = format!("/openapi/v3/{path}?hash={}", hash(Some(&gv)));
        out.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": out})
}

/// The documents that were asked for so far, by name.
fn kept(name: &str, make: impl FnOnce() -> Option<Vec<u8>>) -> Option<Bytes> {
    static DOCUMENTS: OnceLock<Mutex<HashMap<String, Bytes>>> = OnceLock::new();
    let documents = DOCUMENTS.get_or_init(Mutex::default);
    let mut documents = documents.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bytes) = documents.get(name) {
        return Some(bytes.clone());
    }
    let bytes = Bytes::from(make()?.into_boxed_slice());
    documents.insert(name.to_owned(), bytes.clone());
    Some(bytes)
}

/// The OpenAPI v3 document of a group and version; None if it is not served.
pub fn v3_json(gv: &GroupVersion) -> Option<Bytes> {
    kept(&gv.to_string(), || {
        let resources: Vec<&dyn Resource> = kinds::all().iter().copied().filter(|r| r.names().group_version() == *gv).collect();
        if resources.is_empty() { None } else { Some(v3(&resources).to_string().into_bytes()) }
    })
}

/// The OpenAPI v2 document of all groups, as JSON.
pub fn v2_json() -> Bytes {
    kept("v2", || Some(v2::document(&v3(kinds::all())).to_string().into_bytes())).unwrap_or_default()
}

/// The OpenAPI v2 document as gnostic's `openapi.v2.Document`.
pub fn v2_protobuf() -> Bytes {
    kept("v2 protobuf", || Some(gnostic::encode(&v2::document(&v3(kinds::all()))))).unwrap_or_default()
}

fn v3(resources: &[&dyn Resource]) -> Value {
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": git_version()},
        "paths": paths::paths(resources),
        "components": {
            "schemas": schemas::schemas(resources),
            "securitySchemes": {"BearerToken": {"description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header"}},
        },
    })
}

#[cfg(test)]
mod tests;
