//! The checkpoint: the applied state in an engine, brought up now and then by what has changed, in one atomic batch with
//! the applied position and a rolling hash. It makes a start short; it is not what durability hangs on: log and snapshot
//! can always make it anew, and do when it fails or its hash is wrong.
//!
//! It holds the retained history too, so that watches resume over a restart. May import: `codec`, `command`, `engine`,
//! `machine`, `rows`, `state`.

use crate::codec;
use crate::command::Revision;
use crate::engine::{Batch, Engine, EngineError, Place};
use crate::machine::{Delta, Machine, Reading, Row, RowKey};
use crate::rows::{self, Header, Loader, RowsError};
use crate::state::{Applied, State};
use std::collections::BTreeMap;

/// Bytes that go to the engine together. What is added is written in such pieces, each newer than the header says, and is
/// nothing until the header, which comes last, says so.
const PIECE_BYTES: usize = 2 << 20;
/// Changes or keys looked at while the machine's lock is held.
const READ_SLICE: usize = 512;

impl From<RowsError> for EngineError {
    fn from(error: RowsError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<codec::CodecError> for EngineError {
    fn from(error: codec::CodecError) -> Self {
        Self::Damaged(error.to_string())
    }
}

pub struct Checkpoint {
    place: Box<dyn Place>,
    engine: Option<Box<dyn Engine>>,
    header: Header,
    /// The revision that the engine holds everything up to; None: it has to be made anew.
    base: Option<Revision>,
}

impl Checkpoint {
    /// The checkpoint of an empty machine, or of one that `load` brings.
    pub fn new(place: Box<dyn Place>) -> Self {
        let base = (!place.exists()).then(|| Machine::default().revision());
        Self { place, engine: None, header: Header::default(), base }
    }

    /// Has the next save write everything: the machine came from elsewhere, or the engine is not to be trusted.
    pub fn distrust(&mut self) {
        self.base = None;
    }

    /// The state as it was saved last; None: there is none.
    ///
    /// # Errors
    /// The engine fails, or does not hold what was written.
    pub fn load(&mut self) -> Result<Option<(Machine, Applied)>, EngineError> {
        if !self.place.exists() {
            return Ok(None);
        }
        self.base = None;
        let engine = self.place.open()?;
        let Some(header) = engine.get(rows::HEADER)? else { return Ok(None) };
        let header: Header = codec::decode(&header)?;
        let (mut loader, mut unfinished) = (Loader::new(header), Batch::default());
        let revision = loader.revision();
        engine.scan(&mut |key, value| {
            if rows::is_newer(key, revision) {
                unfinished.remove(key.to_vec());
                return Ok(());
            }
            Ok(loader.entry(key, &value)?)
        })?;
        // Pieces of a save that a crash cut short.
        engine.write(unfinished)?;
        let (machine, header) = loader.finish()?;
        self.base = Some(header.revision);
        self.header = header;
        self.engine = Some(engine);
        Ok(Some((machine, self.header.applied.clone())))
    }

    /// Lets the engine go.
    pub fn close(&mut self) {
        self.engine = None;
    }

    /// Bytes that the engine takes.
    pub fn bytes(&self) -> u64 {
        self.engine.as_ref().map_or(0, |engine| engine.bytes())
    }

    /// One past the last log index that the checkpoint has.
    pub fn next(&self) -> u64 {
        self.header.applied.next
    }

    /// Brings the checkpoint up to what is applied now, and syncs it.
    ///
    /// # Errors
    /// The engine failed; the next save writes everything anew.
    pub fn save(&mut self, state: &State) -> Result<(), EngineError> {
        let base = self.base.take();
        let ((delta, reading), applied) = state.between(|machine, applied| (machine.delta(base), applied.clone()));
        let revision = delta.revision;
        let saved = match base {
            Some(_) => self.add(state, delta, reading, applied),
            None => self.rewrite(state, delta, reading, applied),
        };
        match saved {
            Ok(header) => {
                self.header = header;
                self.base = Some(revision);
                state.saved(revision);
                Ok(())
            }
            Err(error) => {
                self.engine = None;
                state.between(|machine, _| machine.abandon());
                Err(error)
            }
        }
    }

    fn engine(&mut self) -> Result<&dyn Engine, EngineError> {
        if self.engine.is_none() {
            self.engine = Some(self.place.open()?);
        }
        Ok(self.engine.as_deref().expect("opened above"))
    }

    fn add(&mut self, state: &State, mut delta: Delta, mut reading: Reading, applied: Applied) -> Result<Header, EngineError> {
        let mut header = Header { applied, revision: delta.revision, compacted: delta.compacted, hash: self.header.hash };
        let engine = self.engine()?;
        let mut pieces = Pieces { engine, batch: Batch::default(), bytes: 0, hash: header.hash };
        loop {
            let more = state.read(|machine| machine.read(&mut reading, &mut delta, READ_SLICE));
            pieces.add(&std::mem::take(&mut delta.rows))?;
            if !more {
                break;
            }
        }
        header.hash = pieces.finish()?;
        let mut batch = Batch::default();
        let hash = &mut header.hash;
        for (key, (old, rows)) in thinned(engine, &delta.removed)? {
            *hash = hash.wrapping_sub(rows::share(&key, &old));
            if rows.is_empty() {
                batch.remove(key);
            } else {
                let value = rows::block_value(&rows)?;
                *hash = hash.wrapping_add(rows::share(&key, &value));
                batch.put(key, value);
            }
        }
        for (id, ttl_s) in &delta.leases {
            let key = rows::lease_key(*id);
            if let Some(old) = engine.get(&key)? {
                *hash = hash.wrapping_sub(rows::share(&key, &old));
            }
            match ttl_s {
                Some(ttl_s) => {
                    let value = rows::lease_value(*id, *ttl_s)?;
                    *hash = hash.wrapping_add(rows::share(&key, &value));
                    batch.put(key, value);
                }
                None => batch.remove(key),
            }
        }
        batch.put(rows::HEADER.to_vec(), codec::encode(&header)?.into());
        engine.write(batch)?;
        engine.sync()?;
        Ok(header)
    }

    /// Makes the checkpoint from nothing. Until its header is there, last of all, it counts as empty.
    fn rewrite(&mut self, state: &State, mut delta: Delta, mut reading: Reading, applied: Applied) -> Result<Header, EngineError> {
        while state.read(|machine| machine.read(&mut reading, &mut delta, READ_SLICE)) {}
        self.engine = None;
        self.place.wipe()?;
        let mut header = Header { applied, revision: delta.revision, compacted: delta.compacted, hash: 0 };
        let engine = self.engine()?;
        let mut batch = Batch::default();
        for (id, ttl_s) in &delta.leases {
            let (key, value) = (rows::lease_key(*id), rows::lease_value(*id, ttl_s.unwrap_or_default())?);
            header.hash = header.hash.wrapping_add(rows::share(&key, &value));
            batch.put(key, value);
        }
        let mut pieces = Pieces { engine, batch, bytes: 0, hash: header.hash };
        pieces.add(&delta.rows)?;
        header.hash = pieces.finish()?;
        engine.sync()?;
        let mut last = Batch::default();
        last.put(rows::HEADER.to_vec(), codec::encode(&header)?.into());
        engine.write(last)?;
        engine.sync()?;
        Ok(header)
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Hands out every entry but the header, as a snapshot wants them.
    ///
    /// # Errors
    /// The engine's, or the visitor's.
    pub fn entries(&mut self, visit: &mut dyn FnMut(&[u8], Vec<u8>) -> Result<(), EngineError>) -> Result<Header, EngineError> {
        let header = self.header.clone();
        let mut hash: u64 = 0;
        self.engine()?.scan(&mut |key, value| {
            if key == rows::HEADER {
                return Ok(());
            }
            hash = hash.wrapping_add(rows::share(key, &value));
            visit(key, value)
        })?;
        if hash != header.hash {
            return Err(RowsError::Hash { found: header.hash, computed: hash }.into());
        }
        Ok(header)
    }
}

fn entry(block: &[Row]) -> Result<(Vec<u8>, Vec<u8>), EngineError> {
    let first = block.first().and_then(rows::row_key).ok_or_else(|| EngineError::Damaged("a block without versions".into()))?;
    Ok((rows::block_key(first), rows::block_value(block)?))
}

/// Rows on their way into the engine.
struct Pieces<'a> {
    engine: &'a dyn Engine,
    batch: Batch,
    bytes: usize,
    hash: u64,
}

impl Pieces<'_> {
    fn add(&mut self, rows: &[Row]) -> Result<(), EngineError> {
        for block in rows::blocks(rows) {
            let (key, value) = entry(block)?;
            self.hash = self.hash.wrapping_add(rows::share(&key, &value));
            self.bytes += key.len() + value.len();
            self.batch.put(key, value);
            if self.bytes >= PIECE_BYTES {
                self.engine.write(std::mem::take(&mut self.batch))?;
                self.bytes = 0;
            }
        }
        Ok(())
    }

    /// Writes the last piece; returns the hash over all that was there and all that was added.
    fn finish(self) -> Result<u64, EngineError> {
        self.engine.write(self.batch)?;
        Ok(self.hash)
    }
}

/// Blocks that lose rows: the old value and the rows that stay.
type Thinned = BTreeMap<Vec<u8>, (Vec<u8>, Vec<Row>)>;

fn thinned(engine: &dyn Engine, removed: &[RowKey]) -> Result<Thinned, EngineError> {
    let mut removed = removed.to_vec();
    removed.sort_unstable();
    let mut thinned = Thinned::new();
    for row in removed {
        let at = rows::block_key(row);
        // Ascending: if the row's block has been met, it is the last one, unless a later block begins in between.
        let (key, value) = engine.floor(&at)?.ok_or_else(|| EngineError::Damaged("a version's block is missing".into()))?;
        if !rows::is_block(&key) {
            return Err(EngineError::Damaged("a version's block is missing".into()));
        }
        let (_, rows) = match thinned.entry(key) {
            std::collections::btree_map::Entry::Occupied(held) => held.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                let rows = rows::block_rows(&value)?;
                free.insert((value, rows))
            }
        };
        rows.retain(|held| rows::row_key(held) != Some(row));
    }
    Ok(thinned)
}
