//! openraft's log storage over `crate::log`. Entries that are not yet on disk or not yet applied are kept in memory, so
//! that applying reads and decodes nothing.

use super::{Entry, LogId, Types, Vote};
use crate::codec;
use crate::log::{Log, Record};
use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader, entry::RaftEntry};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

/// Bytes of entries kept in memory for peers that lag a little.
const KEEP: usize = 1 << 20;
/// Bytes of entries in memory above which even those not yet applied are read from disk again.
const MOST: usize = 64 << 20;
/// Bytes of entries that one message to a peer carries.
const MESSAGE: usize = 2 << 20;

#[derive(Clone)]
pub struct LogStore {
    log: Arc<Log>,
    recent: Arc<Mutex<Recent>>,
}

/// The newest entries.
#[derive(Default)]
struct Recent {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    /// Entries below are on disk.
    durable: u64,
    /// Entries below are applied.
    applied: u64,
}

impl Recent {
    fn first(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.log_id.index)
    }

    fn get(&self, index: u64) -> Option<&(Entry, usize)> {
        self.entries.get(index.checked_sub(self.first()?)? as usize)
    }

    fn shed(&mut self) {
        while self.bytes > KEEP {
            let Some((entry, size)) = self.entries.front() else { return };
            let index = entry.log_id.index;
            if index >= self.durable || (index >= self.applied && self.bytes <= MOST) {
                return;
            }
            self.bytes -= size;
            self.entries.pop_front();
        }
    }

    fn truncate(&mut self, keep_below: u64) {
        while self.entries.back().is_some_and(|(entry, _)| entry.log_id.index >= keep_below) {
            self.bytes -= self.entries.pop_back().map_or(0, |(_, size)| size);
        }
    }

    fn purge(&mut self, upto: u64) {
        while self.entries.front().is_some_and(|(entry, _)| entry.log_id.index <= upto) {
            self.bytes -= self.entries.pop_front().map_or(0, |(_, size)| size);
        }
    }
}

impl LogStore {
    pub fn new(log: Arc<Log>) -> Self {
        let durable = log.range().map_or(0, |(_, last)| last + 1);
        Self { log, recent: Arc::new(Mutex::new(Recent { durable, ..Recent::default() })) }
    }

    /// Tells that entries up to this one are applied, and need not be kept for that any more.
    pub fn applied(&self, index: u64) {
        let mut recent = self.recent.lock();
        recent.applied = index + 1;
        recent.shed();
    }

    fn entry(&self, index: u64) -> io::Result<Option<(Entry, usize)>> {
        if let Some(entry) = self.recent.lock().get(index) {
            return Ok(Some(entry.clone()));
        }
        match self.log.read(index)? {
            Some(payload) => Ok(Some((codec::decode(&payload)?, payload.len()))),
            None => Ok(None),
        }
    }

    /// The indexes held: first, and one past the last.
    fn bounds(&self) -> (u64, u64) {
        let recent = self.recent.lock();
        let memory = recent.first().map(|first| (first, first + recent.entries.len() as u64));
        drop(recent);
        let disk = self.log.range().map(|(first, last)| (first, last + 1));
        match (memory, disk) {
            (Some((first, end)), Some((disk_first, _))) => (disk_first.min(first), end),
            (Some(bounds), None) | (None, Some(bounds)) => bounds,
            (None, None) => (0, 0),
        }
    }

    /// Entries of `start..end` that are there, stopping behind `limit` bytes.
    fn entries(&self, start: u64, end: u64, limit: usize) -> io::Result<Vec<Entry>> {
        let (first, past) = self.bounds();
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in start.max(first)..end.min(past) {
            let Some((entry, size)) = self.entry(index)? else { break };
            bytes += size;
            entries.push(entry);
            if bytes >= limit {
                break;
            }
        }
        Ok(entries)
    }

    fn purged(&self) -> io::Result<Option<LogId>> {
        Ok(match self.log.state().purged {
            Some((_, state)) => Some(codec::decode(&state)?),
            None => None,
        })
    }
}

fn decoded<T: serde::de::DeserializeOwned>(bytes: Option<Bytes>) -> io::Result<Option<T>> {
    Ok(match bytes {
        Some(bytes) => Some(codec::decode(&bytes)?),
        None => None,
    })
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(&mut self, range: RB) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.entries(start, end, MESSAGE)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        decoded(self.log.state().vote)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let last_purged_log_id = self.purged()?;
        let (_, past) = self.bounds();
        let last = match past.checked_sub(1) {
            Some(last) => self.entry(last)?.map(|(entry, _)| entry.log_id),
            None => None,
        };
        Ok(LogState { last_purged_log_id, last_log_id: last.max(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.log.write(vec![Record::Vote(codec::encode(vote)?)]).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log.note_committed(codec::encode(&committed)?);
        Ok(())
    }

    /// Written along with whatever is written next, it may have reached the disk before the entry that it is about; it is of
    /// no use then, and the leader tells anew.
    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let noted = decoded::<Option<LogId>>(self.log.state().committed)?.flatten();
        let last = self.get_log_state().await?.last_log_id;
        Ok(noted.filter(|noted| last.is_some_and(|last| noted.index <= last.index)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        let mut end = 0;
        {
            let mut recent = self.recent.lock();
            for entry in entries {
                let payload = codec::encode(&entry)?;
                let index = entry.index();
                recent.bytes += payload.len();
                recent.entries.push_back((entry, payload.len()));
                records.push(Record::Entry { index, payload });
                end = index + 1;
            }
        }
        let recent = self.recent.clone();
        let done = Box::new(move |result: io::Result<()>| {
            if result.is_ok() {
                let mut recent = recent.lock();
                recent.durable = recent.durable.max(end);
                recent.shed();
            }
            callback.io_completed(result);
        });
        self.log.append(records, done).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let last = last_log_id.map(|id| id.index);
        {
            let mut recent = self.recent.lock();
            let below = last.map_or(0, |last| last + 1);
            recent.truncate(below);
            recent.durable = recent.durable.min(below);
        }
        self.log.write(vec![Record::Truncate { last }]).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.recent.lock().purge(log_id.index);
        self.log.write(vec![Record::Purge { upto: log_id.index, state: codec::encode(&log_id)? }]).await
    }
}
