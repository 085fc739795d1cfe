//! Clock and randomness, behind traits so that a test can drive them; events of directories; limits of this process.
//!
//! May import: the traits of store and runtime.

pub mod dir_watch;
pub mod open_files;
pub mod peers;

pub use dir_watch::DirWatch;

use k8s_openapi::jiff::Timestamp;

/// Where the wall-clock time comes from.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
