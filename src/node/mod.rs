//! The node agent: plan (pure), agent (IO), volumes, probes, logs, exec.
//!
//! May import: meta, kinds, client, network, runtime, env.
//!
//! A pod is one `PodState` in one task (`worker`). `plan` says what to do next, `outcome` how results change the state,
//! `status` what the API is shown; these three, and `env`, `fields`, `security`, `resources`, `container`, `files`,
//! `recover` and `lookup`, are pure. `agent` ties them to the API and to the runtime (through `containers`).

pub mod admin;
pub mod agent;
pub mod backoff;
pub mod container;
pub mod containers;
pub mod context;
pub mod dirs;
pub mod env;
pub mod events;
pub mod exec;
pub mod expand;
#[cfg(test)]
mod fakes;
pub mod fields;
pub mod files;
pub mod hooks;
pub mod images;
pub mod lookup;
pub mod machine;
pub mod nodes;
pub mod outcome;
pub mod plan;
pub mod probes;
pub mod proxy;
pub mod recover;
pub mod registration;
pub mod resources;
pub mod security;
pub mod serve;
pub mod sources;
pub mod state;
pub mod status;
mod streams;
pub mod termination;
pub mod volumes;
mod worker;

pub use agent::{Agent, AgentError, AgentOptions, clear, live_pods};
pub use containers::Containers;
pub use context::Links;
pub use dirs::Dirs;
pub use files::ClusterDns;
pub use images::{Credentials, ImageService};
pub use lookup::ContainerRef;
pub use registration::Identity;
