//! The store's own threads. Raft must be heard in time whatever its users do: a program with thousands of busy connections
//! on one runtime would keep heartbeats waiting behind them, and lose its leader. May import: nothing of ours.

use std::io;
use tokio::runtime::{Builder, Handle, Runtime};

/// A command passes a dozen tasks; within a thread that costs nothing, between two of them a wake-up each. What blocks (the
/// log's syncs, checkpoints, snapshots) has threads of its own.
const THREADS: usize = 1;

/// A runtime that may be let go anywhere.
pub struct Threads(Option<Runtime>);

impl Threads {
    /// # Errors
    /// The system gives no more threads.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).thread_name("store").enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    /// Where to have work done.
    pub fn handle(&self) -> Handle {
        self.0.as_ref().expect("taken only when dropped").handle().clone()
    }
}

impl Drop for Threads {
    /// What still runs ends at its next wait.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
