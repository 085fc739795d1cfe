//! The decoded cache over the store's watch: one decode per change, shared by every reader.
//!
//! May import: meta, kinds, env, store. Invariant: a `Snapshot` holds whole revisions only, and events come in revision
//! order, each exactly once.

pub mod feed;
pub mod snapshot;

pub use feed::{Feed, Lagged, Subscription};
pub use snapshot::{Change, Event, Snapshot};
