//! Time, as the store needs it: for leases alone. May import: nothing of ours.

use futures::future::BoxFuture;
use std::time::{Duration, Instant};

/// A clock that only goes forward.
pub trait Clock: Send + Sync + 'static {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;
    /// Returns once `now` is at least `moment`.
    fn sleep_until(&self, moment: Duration) -> BoxFuture<'static, ()>;
}

/// The machine's own clock.
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep_until(&self, moment: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep_until((self.0 + moment).into()))
    }
}
