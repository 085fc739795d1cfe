//! Quantities (resource.Quantity): parsing, comparing, canonical form.

pub use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
