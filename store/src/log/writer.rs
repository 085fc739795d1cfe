//! The one task that writes.

use super::frame::{Builder, Payload};
use super::recover::Tail;
use super::{Done, Position, RETRY, Record, Request, Segment, Shared, no_space, segment};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// Bytes of records that one write takes together.
const GROUP: usize = 4 << 20;
/// Bytes of a frame's buffer that stay allocated between writes.
const KEEP_BUFFER: usize = 256 << 10;
/// Bytes written to a segment before the next one is thought of.
const QUIET: u64 = 16 << 10;

pub struct Writer {
    shared: Arc<Shared>,
    tail: Tail,
    buffer: Vec<u8>,
}

impl Writer {
    /// Makes the first segment if there is none.
    pub fn new(shared: Arc<Shared>, tail: Option<Tail>) -> io::Result<Self> {
        let tail = match tail {
            Some(tail) => tail,
            None => first_segment(&shared)?,
        };
        let writer = Self { shared, tail, buffer: Vec::new() };
        writer.publish();
        writer.ask_in_time();
        Ok(writer)
    }

    /// Has the next segment prepared well before it is needed, but not while a new store is just being opened.
    fn ask_in_time(&self) {
        if self.room() < self.shared.sizes.segment / 2 && self.tail.offset > QUIET {
            self.shared.spare.want();
        }
    }

    fn room(&self) -> u64 {
        self.tail.size - self.tail.offset
    }

    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            let mut last = request.last;
            let mut size = size_of(&request);
            let mut group = vec![request];
            while size < GROUP && !last {
                let Ok(request) = requests.try_recv() else { break };
                size += size_of(&request);
                last = request.last;
                group.push(request);
            }
            self.write_group(group).await;
            if last {
                break;
            }
        }
        self.shared.spare.close();
    }

    async fn write_group(&mut self, group: Vec<Request>) {
        let mut waiting: Vec<Done> = Vec::with_capacity(group.len());
        let mut records = Vec::new();
        for request in group {
            records.extend(request.records);
            waiting.push(request.done);
        }
        let purges = records.iter().any(|record| matches!(record, Record::Purge { .. }));
        if let Some(committed) = self.shared.committed.lock().take() {
            records.push(Record::Committed(committed));
        }
        let result = self.write_records(&records).await;
        if let Err(error) = &result {
            tracing::error!(%error, "the log cannot be written");
        }
        for done in waiting {
            done(result.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string())));
        }
        if purges {
            self.drop_purged();
        }
    }

    /// Writes the records in as few frames as segments allow; each frame is synced before the next is begun.
    async fn write_records(&mut self, records: &[Record]) -> io::Result<()> {
        let mut rest = records;
        while !rest.is_empty() {
            let room = self.room() as usize;
            let mut frame = Builder::new(std::mem::take(&mut self.buffer));
            let mut places = Vec::new();
            while let Some((record, others)) = rest.split_first() {
                let size = frame.len() + record_bound(record);
                if size > room || (size > GROUP && !frame.is_empty()) {
                    break;
                }
                places.push((record, frame.push(record)));
                rest = others;
            }
            if frame.is_empty() {
                self.buffer = frame.finish(0, 0);
                if record_bound(&rest[0]) + super::frame::HEADER > self.shared.sizes.segment as usize {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "a record larger than a segment"));
                }
                self.roll().await?;
                continue;
            }
            let bytes = frame.finish(self.tail.sequence, self.tail.offset as usize);
            self.write_frame(&bytes, &places).await?;
            self.buffer = bytes;
            if self.buffer.capacity() > KEEP_BUFFER {
                self.buffer = Vec::new();
            }
        }
        Ok(())
    }

    async fn write_frame(&mut self, bytes: &[u8], places: &[(&Record, Payload)]) -> io::Result<()> {
        let offset = self.tail.offset;
        self.write_durably(bytes, offset).await?;
        self.tail.offset += bytes.len() as u64;
        self.shared.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.tail.sequence += 1;
        let mut index = self.shared.index.lock();
        let mut last = None;
        for (record, payload) in places {
            let position = Position {
                segment: self.tail.segment,
                offset: (offset as usize + payload.offset) as u32,
                len: payload.len as u32,
                crc: payload.crc,
                masked: true,
            };
            if let Record::Entry { index, .. } = record {
                last = Some(*index);
            }
            // The committed index is in the state since it was noted; a newer one may be there by now.
            if !matches!(record, Record::Committed(_)) {
                index.take(record, position).map_err(io::Error::other)?;
            }
        }
        if let Some((_, segment)) = index.segments.back_mut() {
            segment.last = segment.last.max(last);
        }
        drop(index);
        self.publish();
        self.ask_in_time();
        Ok(())
    }

    /// Goes on in the next segment, which begins with the state, so that older ones may go.
    async fn roll(&mut self) -> io::Result<()> {
        let number = self.tail.sequence;
        let (file, path) = self.shared.spare.take(|| segment::adopt(&*self.shared.disk, &self.shared.dir, number)).await?;
        let size = file.size()?;
        self.shared.bytes.fetch_add(size, Ordering::Relaxed);
        let held = Segment { file: file.clone(), path, last: None, size };
        let state = {
            let mut index = self.shared.index.lock();
            index.segments.push_back((number, held));
            index.state.clone()
        };
        self.tail = Tail { segment: number, file, offset: 0, size, sequence: number };
        let mut records = Vec::new();
        records.extend(state.purged.map(|(upto, state)| Record::Purge { upto, state }));
        records.extend(state.vote.map(Record::Vote));
        records.extend(state.committed.map(Record::Committed));
        if records.is_empty() {
            self.publish();
            return Ok(());
        }
        let mut frame = Builder::new(Vec::new());
        let places: Vec<_> = records.iter().map(|record| (record, frame.push(record))).collect();
        let bytes = frame.finish(number, 0);
        self.write_frame(&bytes, &places).await
    }

    /// Writes and syncs; tries until it is not for want of space that it fails. Nothing is acknowledged meanwhile, and
    /// whoever asks is told.
    async fn write_durably(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        loop {
            let written = match self.tail.file.write_at(bytes, offset) {
                Ok(()) => self.tail.file.sync_data().await,
                failed => failed,
            };
            match written {
                Err(error) if no_space(&error) => {
                    if !self.shared.stuck.swap(true, Ordering::Relaxed) {
                        tracing::error!(%error, "the log waits for space in the data directory");
                    }
                    tokio::time::sleep(RETRY).await;
                }
                result => {
                    if self.shared.stuck.swap(false, Ordering::Relaxed) {
                        tracing::info!("the log has space again");
                    }
                    return result;
                }
            }
        }
    }

    fn publish(&self) {
        self.shared.room.store(self.room(), Ordering::Relaxed);
        self.shared.spare.told().notify_waiters();
    }

    /// Removes the segments of which nothing is wanted any more, oldest first: a gap would look like damage.
    fn drop_purged(&mut self) {
        loop {
            let Some((path, size)) = ({
                let index = self.shared.index.lock();
                let (_, oldest) = &index.segments[0];
                let wanted = index.segments.len() == 1 || oldest.last.is_some_and(|last| last >= index.first);
                (!wanted).then(|| (oldest.path.clone(), oldest.size))
            }) else {
                return;
            };
            let disk = &self.shared.disk;
            if let Err(error) = disk.remove(&path).and_then(|()| disk.sync_dir(&self.shared.dir)) {
                tracing::warn!(path = %path.display(), %error, "a purged log segment cannot be removed; it will be tried again");
                return;
            }
            self.shared.index.lock().segments.pop_front();
            self.shared.bytes.fetch_sub(size, Ordering::Relaxed);
        }
    }
}

fn first_segment(shared: &Shared) -> io::Result<Tail> {
    let size = shared.sizes.first_segment;
    let file = segment::prepare(&*shared.disk, &shared.dir, size)?;
    let path = segment::adopt(&*shared.disk, &shared.dir, 1)?;
    shared.bytes.fetch_add(size, Ordering::Relaxed);
    shared.index.lock().segments.push_back((1, Segment { file: file.clone(), path, last: None, size }));
    Ok(Tail { segment: 1, file, offset: 0, size, sequence: 1 })
}

fn size_of(request: &Request) -> usize {
    request.records.iter().map(record_bound).sum()
}

/// Bytes that a record takes at most.
fn record_bound(record: &Record) -> usize {
    32 + match record {
        Record::Entry { payload: bytes, .. } | Record::Vote(bytes) | Record::Committed(bytes) | Record::Purge { state: bytes, .. } => {
            bytes.len()
        }
        Record::Truncate { .. } => 0,
    }
}
