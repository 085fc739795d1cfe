//! What every Kubernetes object shares: names of kinds and resources, metadata, selectors, quantities, errors.
//!
//! May import: nothing of ours. Everything here is pure.

pub mod field;
pub mod gvk;
pub mod labels;
pub mod quantity;
pub mod selector;
pub mod selector_parse;
pub mod status;
pub mod time;

pub use field::{FieldError, FieldErrors, FieldPath};
pub use gvk::{GroupVersion, GroupVersionKind, GroupVersionResource};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
pub use quantity::Quantity;
pub use selector::{FieldSelector, Selector};
pub use status::{Cause, Reason, Status};
