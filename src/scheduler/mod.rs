//! Which node a pod runs on: a pure cycle, and a driver that binds.
//!
//! Pure parts may import: meta, kinds, watch (Snapshot). The driver also: client, env.

mod cluster;
mod cycle;
mod driver;
mod filter;
mod queue;
mod resources;
mod score;
mod wanted;

#[cfg(test)]
mod tests;

pub use driver::run;
