//! The decoded cache over the store's watch: one decode per change, shared by every reader.
//!
//! May import: meta, kinds, env, store. Invariant: a `Snapshot` holds whole revisions only, and events come in revision
//! order, each exactly once.

pub mod cache;
pub mod feed;
pub mod history;
pub mod keys;
pub mod load;
pub mod record;
pub mod snapshot;
pub mod watchers;

pub use cache::{Cache, NotYet, TooOld};
pub use feed::{Feed, Lagged, Subscription};
pub use record::Record;
pub use snapshot::{Change, Event, Snapshot};
pub use watchers::{Scope, Sink};
