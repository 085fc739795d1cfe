//! What a store finds around it: the machine's, or what a simulation puts in its place. The network comes with the group.
//! May import: `clock`, `disk`.

use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, System};
use std::sync::Arc;

#[derive(Clone)]
pub struct World {
    pub disk: Arc<dyn Disk>,
    /// For leases; whatever waits for others goes by tokio's time.
    pub clock: Arc<dyn Clock>,
    pub sizes: Sizes,
}

/// How large files grow, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// A segment of the log, which holds the largest entry; the first one is small, so that a new store opens fast.
    pub segment: u64,
    pub first_segment: u64,
    /// The log, before a snapshot is written in whose favour it is purged.
    pub log: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { segment: 8 << 20, first_segment: 512 << 10, log: 256 << 20 }
    }
}

impl Default for World {
    fn default() -> Self {
        Self { disk: Arc::new(System), clock: Arc::new(SystemClock::default()), sizes: Sizes::default() }
    }
}
