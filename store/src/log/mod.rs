//! The Raft log on disk: append-only, checksummed, in segments, with one writer.
//!
//! Knows opaque records, not Raft: `raft::log_store` says what they mean. One thread writes; it takes everything that waits,
//! writes it with one write, syncs it with one `fdatasync`, and then tells every waiter. Segments are filled with zeros
//! before use, so that a write changes no metadata, an entry can be taken when the disk is full, and what a crash left
//! half-written is told from damage: half-written sectors are still zero. May import: `disk`, `work`, `world`.
//!
//! Invariants: entry indexes are consecutive; a waiter is told only after its records are on disk; a segment is removed
//! only when every entry in it has been purged, and a younger segment then begins with the state that it held.

mod frame;
mod recover;
mod segment;
mod spare;
#[cfg(test)]
mod tests;
mod writer;

use crate::disk::{Disk, File, read_exact_at};
use crate::work::Worker;
use crate::world::{Sizes, World};
use bytes::Bytes;
use parking_lot::Mutex;
use spare::{Prospect, Spare};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;

/// Requests that may wait for the writer.
const QUEUE: usize = 1024;
/// How long to wait for space before looking again: a disk tells nobody when it has some.
const RETRY: Duration = Duration::from_millis(100);

/// Why a log does not open.
#[derive(Debug, Error)]
pub enum LogError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// Bytes that were on disk have changed or gone: cutting them off would lose acknowledged writes.
    #[error("{path} is damaged at byte {offset}: {what}")]
    Damaged { path: PathBuf, offset: u64, what: String },
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Entry {
        index: u64,
        payload: Bytes,
    },
    /// Entries above `last` are void (None: all).
    Truncate {
        last: Option<u64>,
    },
    /// Entries up to `upto` are given up; `state` is kept in their place.
    Purge {
        upto: u64,
        state: Bytes,
    },
    Vote(Bytes),
    Committed(Bytes),
}

/// What the log holds beside its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    /// Index and state of the last purge.
    pub purged: Option<(u64, Bytes)>,
}

/// Called once the records are on disk.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

struct Request {
    records: Vec<Record>,
    done: Done,
    /// Ends the writer after this request.
    last: bool,
}

/// Where an entry's payload lies.
#[derive(Clone, Copy, Debug)]
struct Position {
    segment: u64,
    offset: u32,
    len: u32,
    crc: u32,
    /// Its bytes are masked on disk.
    masked: bool,
}

/// A segment that may hold entries that are still wanted.
struct Segment {
    file: Arc<dyn File>,
    path: PathBuf,
    /// The highest entry index in it, void ones included.
    last: Option<u64>,
    size: u64,
}

/// What readers and the writer share.
struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    sizes: Sizes,
    index: Mutex<Index>,
    /// Committed index that the next write takes along; not worth a write of its own.
    committed: Mutex<Option<Bytes>>,
    /// The writer cannot write for want of space and tries again.
    stuck: AtomicBool,
    /// Bytes that the current segment still takes.
    room: AtomicU64,
    /// Bytes of records that have been promised room and may not have been written yet.
    promised: AtomicU64,
    spare: Spare,
    /// Bytes that all segments take.
    bytes: AtomicU64,
    /// Bytes written since the log was opened.
    written: AtomicU64,
}

/// Entries by index, and the state.
#[derive(Default)]
struct Index {
    /// Index of the first position.
    first: u64,
    positions: VecDeque<Position>,
    segments: VecDeque<(u64, Segment)>,
    state: State,
}

/// Room in the log, promised until this is dropped.
pub struct Room {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.promised.fetch_sub(self.bytes, Ordering::SeqCst);
        self.shared.spare.told().notify_waiters();
    }
}

fn no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The open log.
pub struct Log {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Request>,
    writer: Mutex<Option<Worker>>,
}

impl Log {
    /// Opens or makes the log in `dir`: checks every frame, cuts a torn tail off, and starts the writer.
    ///
    /// # Errors
    /// `Damaged` if anything but the tail is not as it was written.
    pub fn open(world: &World, dir: &Path) -> Result<Self, LogError> {
        let recovered = recover::recover(&*world.disk, dir)?;
        let (queue, requests) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            disk: world.disk.clone(),
            dir: dir.to_owned(),
            sizes: world.sizes,
            bytes: AtomicU64::new(recovered.index.segments.iter().map(|(_, segment)| segment.size).sum()),
            index: Mutex::new(recovered.index),
            committed: Mutex::new(None),
            stuck: AtomicBool::new(false),
            room: AtomicU64::new(0),
            promised: AtomicU64::new(0),
            spare: Spare::start(world.disk.clone(), dir.to_owned(), world.sizes.segment)
                .map_err(|source| LogError::Io { path: dir.to_owned(), source })?,
            written: AtomicU64::new(0),
        });
        let writer = writer::Writer::new(shared.clone(), recovered.tail)
            .and_then(|writer| Worker::start("store-log", writer.run(requests)))
            .map_err(|source| LogError::Io { path: dir.to_owned(), source })?;
        Ok(Self { shared, queue, writer: Mutex::new(Some(writer)) })
    }

    /// Queues records; `done` hears once they are on disk, in the order of queueing. Waits while the queue is full.
    ///
    /// # Errors
    /// The log has been closed; `done` is not called.
    pub async fn append(&self, records: Vec<Record>, done: Done) -> io::Result<()> {
        let request = Request { records, done, last: false };
        self.queue.send(request).await.map_err(|_| io::Error::other("the log is closed"))
    }

    /// Queues records and waits until they are on disk.
    ///
    /// # Errors
    /// The records are not on disk.
    pub async fn write(&self, records: Vec<Record>) -> io::Result<()> {
        let (told, hears) = tokio::sync::oneshot::channel();
        let done = Box::new(move |result| {
            // Whoever waited may have been cancelled; the records are on disk all the same.
            let _ = told.send(result);
        });
        self.append(records, done).await?;
        hears.await.map_err(|_| io::Error::other("the log is closed"))?
    }

    /// Leaves the committed index to be written along with the next records.
    pub fn note_committed(&self, committed: Bytes) {
        self.shared.index.lock().state.committed = Some(committed.clone());
        *self.shared.committed.lock() = Some(committed);
    }

    /// Vote, committed index and purge state as last written or noted.
    pub fn state(&self) -> State {
        self.shared.index.lock().state.clone()
    }

    /// First and last index on disk; None: no entries.
    pub fn range(&self) -> Option<(u64, u64)> {
        let index = self.shared.index.lock();
        let len = index.positions.len() as u64;
        (len > 0).then(|| (index.first, index.first + len - 1))
    }

    /// An entry's payload; None if the log does not hold it (any more).
    ///
    /// # Errors
    /// The disk fails, or its bytes are not those that were written.
    pub fn read(&self, index: u64) -> io::Result<Option<Bytes>> {
        let (position, file) = {
            let held = self.shared.index.lock();
            let Some(position) = index.checked_sub(held.first).and_then(|at| held.positions.get(at as usize)).copied() else {
                return Ok(None);
            };
            let Some(at) = held.segments.iter().position(|(id, _)| *id == position.segment) else { return Ok(None) };
            (position, held.segments[at].1.file.clone())
        };
        let mut payload = vec![0; position.len as usize];
        read_exact_at(&*file, &mut payload, u64::from(position.offset))?;
        if position.masked {
            frame::mask(&mut payload, position.offset as usize);
        }
        if crc32fast::hash(&payload) != position.crc {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("log entry {index} is damaged")));
        }
        Ok(Some(payload.into()))
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Bytes written since the log was opened.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Why nothing that grows the store is taken at present, if so.
    pub fn refuses(&self) -> Option<&'static str> {
        if self.shared.stuck.load(Ordering::Relaxed) {
            return Some("the log waits for space");
        }
        self.shared.spare.is_short().then_some("the log has no room left")
    }

    /// Promises room for records of so many bytes, so that the writer need not wait for space with them; waits while the
    /// next segment is being made. What `grows` the store leaves some to what does not.
    ///
    /// # Errors
    /// There is no space for another segment, and the current one has not that much room.
    pub async fn room_for(&self, bytes: u64, grows: bool) -> Result<Room, &'static str> {
        let shared = &self.shared;
        let margin = segment::MARGIN + if grows { segment::RELIEF } else { 0 };
        loop {
            let told = shared.spare.told().notified();
            tokio::pin!(told);
            told.as_mut().enable();
            // Counted first: whoever asks at the same moment sees it.
            let needed = shared.promised.fetch_add(bytes, Ordering::SeqCst) + bytes + margin;
            let room = shared.room.load(Ordering::SeqCst);
            let prospect = if needed <= room { Prospect::Ready } else { shared.spare.want() };
            if prospect == Prospect::Ready && needed <= room + shared.sizes.segment {
                return Ok(Room { shared: shared.clone(), bytes });
            }
            shared.promised.fetch_sub(bytes, Ordering::SeqCst);
            if prospect == Prospect::Short {
                return Err("the log has no room left");
            }
            told.await;
        }
    }

    /// Writes what waits, then closes. Later appends fail.
    pub async fn close(&self) {
        let (told, hears) = tokio::sync::oneshot::channel();
        let done: Done = Box::new(move |_| {
            // The closer may have given up waiting.
            let _ = told.send(());
        });
        if self.queue.send(Request { records: Vec::new(), done, last: true }).await.is_ok() {
            // An error means that the writer ended without answering: closed either way.
            let _ = hears.await;
        }
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            // It has just said that it ends.
            if let Err(error) = writer.ended().await {
                tracing::warn!(%error, "the log's writer did not end cleanly");
            }
        }
    }
}
