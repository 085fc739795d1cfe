//! The node agent: plan (pure), agent (IO), volumes, probes, logs, exec.
//!
//! May import: meta, kinds, client, network, runtime, env.

pub mod admin;
pub mod containers;
pub mod serve;

pub use containers::Containers;
