//! The checkpoint: the applied state in an engine, brought up now and then by what has changed, in one atomic batch with
//! the applied position and a rolling hash. It makes a start short; it is not what durability hangs on: log and snapshot
//! can always make it anew, and do when it fails or its hash is wrong.
//!
//! It holds the retained history too, so that watches resume over a restart. What compaction frees stays in it until it is
//! made anew, which costs by what is live; taking versions out one by one would rewrite the blocks that they share with
//! live ones. May import: `codec`, `command`, `engine`, `machine`, `rows`, `state`, `work`.

use crate::codec;
use crate::command::Revision;
use crate::engine::{Batch, Engine, EngineError, Place};
use crate::machine::{Delta, Machine, Row};
use crate::rows::{self, Header, Loader, RowsError};
use crate::state::{Applied, State};
use crate::work::{handing_over, made_beside};

/// Bytes that go to the engine together. What is added is written in such pieces, each newer than the header says, and is
/// nothing until the header, which comes last, says so.
const PIECE_BYTES: usize = 2 << 20;
/// Bytes of entries that are handed over together while they are read.
const READ_BYTES: usize = 128 << 10;
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
    /// Bytes of keys and values in it, those included that compaction has freed.
    content: u64,
}

impl Checkpoint {
    /// The checkpoint of an empty machine, or of one that `load` brings.
    pub fn new(place: Box<dyn Place>) -> Self {
        let base = (!place.exists()).then(|| Machine::default().revision());
        Self { place, engine: None, header: Header::default(), base, content: 0 }
    }

    /// Has the next save write everything: the machine came from elsewhere, or the engine is not to be trusted.
    pub fn distrust(&mut self) {
        self.base = None;
    }

    /// Whether what was saved last can be read again.
    pub fn stands(&self) -> bool {
        self.base.is_some()
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
        let mut loader = Loader::new(header);
        let revision = loader.revision();
        // Reading and making take about as long as each other, and are done beside each other.
        let mut unusable = None;
        let read = made_beside("checkpoint", move |hand| read_through(engine, revision, hand), &mut |entries: Entries| {
            unusable = entries.into_iter().try_for_each(|(key, value)| loader.entry(&key, &value)).err();
            unusable.is_none()
        });
        if let Some(error) = unusable {
            return Err(error.into());
        }
        // Not by the thread that read: what a thread frees that ends at once stays with the process.
        drop(read??);
        self.content = loader.bytes();
        let (machine, header) = loader.finish()?;
        self.base = Some(header.revision);
        self.header = header;
        Ok(Some((machine, self.header.applied.clone())))
    }

    /// Lets the engine go, and with it what it keeps of what was read: after a scan of sled that is up to a third of
    /// everything, whatever bound its cache was given. It is opened again when it is needed.
    pub fn close(&mut self) {
        self.engine = None;
    }

    /// Bytes of keys and values in it, those included that compaction has freed.
    pub fn content(&self) -> u64 {
        self.content
    }

    /// Bytes that the engine takes.
    pub fn bytes(&self) -> u64 {
        self.place.bytes()
    }

    /// One past the last log index that the checkpoint has.
    pub fn next(&self) -> u64 {
        self.header.applied.next
    }

    /// Brings the checkpoint up to what is applied now, and syncs it. What looks at the state is done by this thread and
    /// wants to be quick; the rest, in the background, takes what processors others leave.
    ///
    /// # Errors
    /// The engine failed; the next save writes everything anew.
    pub fn save(&mut self, state: &State) -> Result<(), EngineError> {
        let base = self.base.take();
        let ((delta, mut reading), applied) = state.between(|machine, applied| (machine.delta(base), applied.clone()));
        let revision = delta.revision;
        let mut slices = std::iter::from_fn(|| state.read(|machine| machine.read(&mut reading, READ_SLICE)));
        let saved = handing_over("checkpoint", &mut slices, |slices| match base {
            Some(_) => self.add(slices, &delta, applied),
            None => self.rewrite(slices, &delta, applied),
        });
        match saved.map_err(EngineError::from).flatten() {
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

    fn add(&mut self, slices: &mut dyn Iterator<Item = Vec<Row>>, delta: &Delta, applied: Applied) -> Result<Header, EngineError> {
        let mut header = Header { applied, revision: delta.revision, compacted: delta.compacted, hash: self.header.hash };
        let engine = self.engine()?;
        let mut pieces = Pieces::new(engine, Batch::default(), header.hash);
        for rows in slices {
            pieces.add(&rows)?;
        }
        let content;
        (header.hash, content) = pieces.finish()?;
        let mut batch = Batch::default();
        let hash = &mut header.hash;
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
        self.content += content;
        Ok(header)
    }

    /// Makes the checkpoint from nothing. Until its header is there, last of all, it counts as empty.
    fn rewrite(&mut self, slices: &mut dyn Iterator<Item = Vec<Row>>, delta: &Delta, applied: Applied) -> Result<Header, EngineError> {
        let mut rows: Vec<Row> = slices.flatten().collect();
        Row::sort(&mut rows);
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
        let mut pieces = Pieces::new(engine, batch, header.hash);
        pieces.add(&rows)?;
        let content;
        (header.hash, content) = pieces.finish()?;
        engine.sync()?;
        let mut last = Batch::default();
        last.put(rows::HEADER.to_vec(), codec::encode(&header)?.into());
        engine.write(last)?;
        engine.sync()?;
        self.content = content;
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
        let scanned = self.engine()?.scan(&mut |key, value| {
            if key == rows::HEADER {
                return Ok(());
            }
            hash = hash.wrapping_add(rows::share(key, &value));
            visit(key, value)
        });
        self.close();
        scanned?;
        if hash != header.hash {
            return Err(RowsError::Hash { found: header.hash, computed: hash }.into());
        }
        Ok(header)
    }
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// Hands out, a piece at a time and as long as they are wanted, the entries up to a revision; takes away those beyond it,
/// which a crash left of a save. Returns the engine, to be let go as `Checkpoint::close` does.
fn read_through(
    engine: Box<dyn Engine>,
    revision: Revision,
    hand: &mut dyn FnMut(Entries) -> bool,
) -> Result<Box<dyn Engine>, EngineError> {
    let unwanted = || EngineError::Damaged("what was read cannot be used".into());
    let (mut entries, mut bytes, mut unfinished) = (Entries::new(), 0, Batch::default());
    engine.scan(&mut |key, value| {
        if rows::is_newer(key, revision) {
            unfinished.remove(key.to_vec());
            return Ok(());
        }
        bytes += key.len() + value.len();
        entries.push((key.to_vec(), value));
        if bytes >= READ_BYTES {
            bytes = 0;
            return if hand(std::mem::take(&mut entries)) { Ok(()) } else { Err(unwanted()) };
        }
        Ok(())
    })?;
    if !hand(entries) {
        return Err(unwanted());
    }
    engine.write(unfinished)?;
    Ok(engine)
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
    content: u64,
}

impl<'a> Pieces<'a> {
    /// `batch` goes with the first of them; `hash` is that over what is there, and in the batch.
    fn new(engine: &'a dyn Engine, batch: Batch, hash: u64) -> Self {
        Self { engine, batch, bytes: 0, hash, content: 0 }
    }

    fn add(&mut self, rows: &[Row]) -> Result<(), EngineError> {
        self.content += rows.iter().map(Row::bytes).sum::<u64>();
        for block in rows::blocks(rows) {
            let (key, value) = entry(block)?;
            self.hash = self.hash.wrapping_add(rows::share(&key, &value));
            self.bytes += key.len() + value.len();
            self.batch.add(key, value);
            if self.bytes >= PIECE_BYTES {
                self.engine.write(std::mem::take(&mut self.batch))?;
                self.bytes = 0;
            }
        }
        Ok(())
    }

    /// Writes the last piece; returns the hash over all that was there and all that was added, and the bytes of keys and
    /// values that were added.
    fn finish(self) -> Result<(u64, u64), EngineError> {
        self.engine.write(self.batch)?;
        Ok((self.hash, self.content))
    }
}
