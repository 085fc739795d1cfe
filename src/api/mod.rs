//! The HTTP server: an ordered pipeline of stages, generic verbs, patches, admission, discovery, OpenAPI, subresources.
//!
//! May import: meta, kinds, security, watch, env, store, client (its trait).

pub mod discovery;
