//! Work that blocks. A store on several threads has it done on others than those that serve; one that was given a single
//! thread, as a simulation is, does everything on that, in an order that is always the same. May import: nothing of ours.

use std::io;
use tokio::runtime::{Builder, Handle, RuntimeFlavor};

/// Whether there is no thread but the present one.
fn alone() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::CurrentThread)
}

/// Does what may block.
///
/// # Errors
/// It panicked, or was cut off by the runtime's end.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    if alone() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// A task that may block for as long as it runs.
pub enum Worker {
    Thread(std::thread::JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

impl Worker {
    /// # Errors
    /// There are no more threads.
    pub fn start(name: &str, work: impl Future<Output = ()> + Send + 'static) -> io::Result<Self> {
        if alone() {
            return Ok(Self::Task(tokio::spawn(work)));
        }
        let runtime = Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new().name(name.into()).spawn(move || runtime.block_on(work)).map(Self::Thread)
    }

    /// Returns once it has ended.
    ///
    /// # Errors
    /// It panicked.
    pub async fn ended(self) -> io::Result<()> {
        match self {
            Self::Thread(thread) => blocking(move || thread.join()).await?.map_err(|_| io::Error::other("it panicked")),
            Self::Task(task) => task.await.map_err(io::Error::other),
        }
    }
}
