//! Events live for an hour: they hang on leases, of which one serves every Event written within a minute.

use super::Verbs;
use super::store::failure;
use crate::kinds::{Event, Registered, Resource};
use crate::meta::Status;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long one lease takes in Events.
const SHARED_FOR: Duration = Duration::from_secs(60);

/// The lease in use.
pub(super) struct Leases {
    ttl_s: i64,
    present: Mutex<Option<(i64, Instant)>>,
}

impl Leases {
    pub(super) fn new(ttl_s: i64) -> Self {
        Self { ttl_s, present: Mutex::new(None) }
    }
}

impl Verbs {
    /// The lease to write an object of `stored` with; 0 for all kinds but Event.
    pub(super) async fn lease_of(&self, stored: &dyn Resource) -> Result<i64, Status> {
        if stored.names() != Event::resource().names() {
            return Ok(0);
        }
        let mut present = self.events.present.lock().await;
        if let Some((id, since)) = *present
            && since.elapsed() < SHARED_FOR
        {
            return Ok(id);
        }
        // Its last Event must live out its time, too.
        let ttl_s = self.events.ttl_s + i64::try_from(SHARED_FOR.as_secs()).unwrap_or(0);
        let id = self.store.lease_grant(0, ttl_s).await.map_err(|e| failure(&e))?;
        *present = Some((id, Instant::now()));
        Ok(id)
    }
}
