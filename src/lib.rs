//! orchd: a whole Kubernetes in one binary. The code map is docs/ARCHITECTURE.md; `tests/tidy.rs` holds its import table.

pub mod client;
pub mod kinds;
pub mod meta;
pub mod watch;
