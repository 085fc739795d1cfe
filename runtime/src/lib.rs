//! Images and containers. Knows OCI, not Kubernetes.

mod cgroup;
pub mod image;
pub mod sandbox;
mod seccomp;
pub mod spec;

pub use sandbox::{ExecSession, Options, Runtime, RuntimeEvent, SHIM_VERB, StartError, Usage, shim_main};
