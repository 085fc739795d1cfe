//! One pure file per controller; `driver` does all their IO.
//!
//! Pure parts may import: meta, kinds, watch (Snapshot). The driver also: client, env.
