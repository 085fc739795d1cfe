//! Which node a pod runs on: a pure cycle, and a driver that binds.
//!
//! Pure parts may import: meta, kinds, watch (Snapshot). The driver also: client, env.
