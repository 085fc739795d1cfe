//! orchd: a whole Kubernetes in one binary. The code map is docs/ARCHITECTURE.md; `tests/tidy.rs` holds its import table.

pub mod api;
pub mod cli;
pub mod client;
pub mod controllers;
pub mod env;
pub mod kinds;
pub mod meta;
pub mod network;
pub mod node;
pub mod scheduler;
pub mod security;
pub mod watch;
