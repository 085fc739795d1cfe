//! The HTTP server: an ordered pipeline of stages, generic verbs, patches, admission, discovery, OpenAPI, subresources.
//!
//! May import: meta, kinds, security, watch, env, store, client (its trait).

pub mod admission;
pub mod discovery;
pub mod local;
pub mod negotiate;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod requests;
pub mod schema;
pub mod server;
pub mod streams;
pub mod tables;
pub mod verbs;
