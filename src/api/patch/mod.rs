//! Patches: JSON patch, merge patch, strategic merge patch, server-side apply.
//!
//! May import: meta, api::schema. Everything here is pure, over JSON values. A patch type is chosen by content type:
//! `PatchKind::from_content_type`.

pub mod apply;
pub mod json;
pub mod merge;
pub mod strategic;

use crate::meta::{Reason, Status, status::Details};

/// The most operations that a JSON patch may have (kube-apiserver's limit).
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

/// Which of the patches a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    Json,
    Merge,
    Strategic,
    /// Server-side apply: the body is YAML, of which JSON is a part.
    Apply,
}

/// The content types that PATCH takes, for the 415 that lists them and for OpenAPI.
pub const CONTENT_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

impl PatchKind {
    /// Of a Content-Type header, whatever its parameters. None: 415.
    pub fn from_content_type(header: &str) -> Option<Self> {
        match header.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+json" | "application/apply-patch+cbor" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// Why a patch cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is no patch (400).
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object (422). Kubernetes tells the client no more than that.
    #[error("{0}")]
    Unprocessable(String),
    #[error("The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {0}")]
    TooLarge(usize),
    #[error("{0}")]
    Internal(String),
}

impl From<PatchError> for Status {
    fn from(error: PatchError) -> Self {
        let text = error.to_string();
        match error {
            PatchError::Malformed(_) => Self::bad_request(text),
            PatchError::Unprocessable(why) => {
                let message = format!("the server rejected our request due to an error in our request: {why}");
                Self { details: Some(Box::new(Details::default())), ..Self::new(Reason::Invalid, message) }
            }
            PatchError::TooLarge(_) => Self::new(Reason::RequestEntityTooLarge, text),
            PatchError::Internal(_) => Self::new(Reason::InternalError, text),
        }
    }
}
