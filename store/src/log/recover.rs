//! Reading the log back at start: every frame is checked, a torn tail is cut off, damage is an error.

use super::frame::{self, Found};
use super::{Index, LogError, Position, Record, Segment, segment};
use crate::disk::{self, Disk, File, Open};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where writing goes on.
pub struct Tail {
    pub segment: u64,
    pub file: Arc<dyn File>,
    pub offset: u64,
    pub size: u64,
    /// Sequence number of the next frame.
    pub sequence: u64,
}

pub struct Recovered {
    pub index: Index,
    /// None: an empty log without a segment.
    pub tail: Option<Tail>,
}

pub fn recover(disk: &dyn Disk, dir: &Path) -> Result<Recovered, LogError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| LogError::Io { path, source }
    };
    disk.make_dir(dir).map_err(io(dir))?;
    segment::discard_spare(disk, dir).map_err(io(dir))?;
    let mut segments = Vec::new();
    for path in disk.list(dir).map_err(io(dir))? {
        if let Some(number) = segment::number(&path) {
            segments.push((number, path));
        }
    }
    if segments.is_empty() {
        // A log whose directory is lost to a power failure is lost with everything in it.
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        disk.sync_dir(parent).map_err(io(parent))?;
    }
    segments.sort();
    let mut recovered = Recovered { index: Index::default(), tail: None };
    let last = segments.len().saturating_sub(1);
    for (at, (number, path)) in segments.into_iter().enumerate() {
        read_segment(disk, &mut recovered, number, path, at == last)?;
    }
    Ok(recovered)
}

fn read_segment(disk: &dyn Disk, recovered: &mut Recovered, number: u64, path: PathBuf, last: bool) -> Result<(), LogError> {
    let io = |source: io::Error| LogError::Io { path: path.clone(), source };
    let damaged = |offset: usize, what: &str| LogError::Damaged { path: path.clone(), offset: offset as u64, what: what.into() };
    let expected = recovered.tail.as_ref().map_or(number, |tail| tail.sequence);
    if number != expected {
        return Err(damaged(0, &format!("a segment is missing: it begins with frame {number}, not {expected}")));
    }
    let file = disk.open(&path, Open::Write).map_err(io)?;
    let bytes = disk::read(disk, &path).map_err(io)?;
    let mut sequence = number;
    let mut offset = 0;
    let mut held = Segment { file: file.clone(), path: path.clone(), last: None, size: bytes.len() as u64 };
    loop {
        match frame::look(&bytes[offset..]) {
            Found::Frame { sequence: found, len, masked } if found == sequence => {
                let frame = &bytes[offset..offset + len];
                let records = frame::records(frame, offset, masked).ok_or_else(|| damaged(offset, "its records do not add up"))?;
                for (record, payload) in records {
                    let at = Position {
                        segment: number,
                        offset: (offset + payload.offset) as u32,
                        len: payload.len as u32,
                        crc: payload.crc,
                        masked,
                    };
                    take(&mut recovered.index, &mut held, &record, at).map_err(|what| damaged(offset, &what))?;
                }
                offset += len;
                sequence += 1;
            }
            Found::Frame { .. } => return Err(damaged(offset, "a frame out of sequence")),
            Found::Nothing => break,
            Found::Bad(what) => {
                if !last || !frame::torn(&bytes, offset) {
                    return Err(damaged(offset, what));
                }
                break;
            }
        }
    }
    if last {
        if let Some(first) = frame::first_written(&bytes[offset..]) {
            if let Some(at) = frame::frame_behind(&bytes, offset + first, sequence) {
                return Err(damaged(offset, &format!("frames are missing before the one at byte {at}")));
            }
            tracing::warn!(path = %path.display(), offset, "the log ends in a write that was not finished; cutting it off");
            let written = bytes.iter().rposition(|byte| *byte != 0).map_or(offset, |at| at + 1);
            file.write_at(&vec![0; written - offset], offset as u64).map_err(io)?;
        }
        // What was read may not have been synced; from here on it counts as durable.
        file.sync_all().map_err(io)?;
    }
    recovered.index.segments.push_back((number, held));
    recovered.tail = Some(Tail { segment: number, file, offset: offset as u64, size: bytes.len() as u64, sequence });
    Ok(())
}

fn take(index: &mut Index, held: &mut Segment, record: &Record, position: Position) -> Result<(), String> {
    if let Record::Entry { index: at, .. } = record {
        held.last = held.last.max(Some(*at));
    }
    index.take(record, position)
}

impl Index {
    /// Takes a record in that is on disk.
    pub fn take(&mut self, record: &Record, position: Position) -> Result<(), String> {
        match record {
            Record::Entry { index, .. } => {
                let next = self.first.checked_add(self.positions.len() as u64);
                if self.positions.is_empty() {
                    self.first = *index;
                } else if Some(*index) != next {
                    return Err(format!("entry {index} follows {} from entry {} on", self.positions.len(), self.first));
                }
                self.positions.push_back(position);
            }
            Record::Truncate { last } => {
                let keep = last.map_or(0, |last| (last + 1).saturating_sub(self.first)) as usize;
                self.positions.truncate(keep);
            }
            Record::Purge { upto, state } => {
                let next = upto.checked_add(1).ok_or("every entry is given up")?;
                let drop = next.saturating_sub(self.first).min(self.positions.len() as u64);
                self.positions.drain(..drop as usize);
                self.first = self.first.max(next);
                self.state.purged = Some((*upto, state.clone()));
            }
            Record::Vote(vote) => self.state.vote = Some(vote.clone()),
            Record::Committed(committed) => self.state.committed = Some(committed.clone()),
        }
        Ok(())
    }
}
