//! `DirWatch`: waits for something to happen in a directory (inotify), so that nobody polls.

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A directory that is watched for writes, and for files that are made or moved there.
pub struct DirWatch(AsyncFd<Descriptor>);

/// inotify's descriptor as tokio wants it.
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl DirWatch {
    /// Events from now on. A directory that is not there brings none.
    ///
    /// # Errors
    /// The kernel has no more watches.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        match inotify.add_watch(dir, flags) {
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
        // SAFETY: a Descriptor owns its inotify, gives out the same descriptor always, and closes it only when dropped.
        let registered = unsafe { AsyncFd::register_with_interest(Descriptor(inotify), Interest::READABLE) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    /// Returns once something has happened since the last call (or since `new`).
    ///
    /// # Errors
    /// The descriptor failed.
    pub async fn wait(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.get_inner().0.read_events() {
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(e) => return Err(e.into()),
            }
        }
    }
}
