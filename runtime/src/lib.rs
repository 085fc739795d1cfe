//! Images and containers. Knows OCI, not Kubernetes.

pub mod image;
pub mod sandbox;
pub mod spec;

pub use sandbox::{ExecSession, Options, Runtime, RuntimeEvent, SHIM_VERB, StartError, Usage, shim_main};
