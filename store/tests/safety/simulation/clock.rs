//! A clock that goes by tokio's time, which may be simulated, and can be put forward.

use futures::future::BoxFuture;
use orchd_store::clock::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How soon a sleeper finds out that the clock was put forward.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub struct Jumping {
    begun: Instant,
    ahead_ms: Arc<AtomicU64>,
}

impl Jumping {
    pub fn new() -> Self {
        Self { begun: Instant::now(), ahead_ms: Arc::default() }
    }

    pub fn jump(&self, ms: u64) {
        self.ahead_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Jumping {
    fn now(&self) -> Duration {
        self.begun.elapsed() + Duration::from_millis(self.ahead_ms.load(Ordering::SeqCst))
    }

    fn sleep_until(&self, moment: Duration) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        Box::pin(async move {
            while let Some(left) = moment.checked_sub(clock.now()).filter(|left| !left.is_zero()) {
                tokio::time::sleep(LOOK.min(left)).await;
            }
        })
    }
}
