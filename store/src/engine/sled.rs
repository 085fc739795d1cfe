//! sled 0.34.7 as the checkpoint's engine.
//!
//! Its traps, and what is done about them. `flush` does not make anything survive a power failure: its file is synced here,
//! through a descriptor of our own, and its directory too. Pages above about 128 KiB (a quarter of its segment) go to side
//! files that it never syncs: a leaf holds up to 17 values, so values are split into chunks that keep a full leaf below
//! that. It may fail to open after a crash: the caller then wipes it and builds it anew.

use super::{Batch, Change, Engine, EngineError, Place};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of a value in one sled entry: 17 of them and their keys stay far below a quarter of a segment.
const CHUNK: usize = 4 << 10;
/// sled's page cache. Reading happens at start and, a little, after compaction.
const CACHE_BYTES: u64 = 2 << 20;
/// How often sled tidies its file up in the background.
const TIDY_MS: u64 = 10_000;
const UNLOCK_TRIES: u32 = 200;
const UNLOCK_PAUSE: Duration = Duration::from_millis(10);

/// A directory of generations: one that is made anew never meets the files of the one before, which sled's threads may
/// still touch for a moment after it was closed.
pub struct SledPlace {
    dir: PathBuf,
    generation: AtomicU64,
}

impl SledPlace {
    pub fn new(dir: PathBuf) -> Self {
        let generation = generations(&dir).max().unwrap_or(1);
        Self { dir, generation: AtomicU64::new(generation) }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(self.generation.load(Ordering::Relaxed).to_string())
    }
}

fn generations(dir: &Path) -> impl Iterator<Item = u64> + use<> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
}

impl Place for SledPlace {
    fn exists(&self) -> bool {
        generations(&self.dir).next().is_some()
    }

    fn open(&self) -> Result<Box<dyn Engine>, EngineError> {
        let path = self.path();
        until_unlocked(&path.join("db"))?;
        let db = ::sled::Config::new().path(&path).cache_capacity(CACHE_BYTES).flush_every_ms(Some(TIDY_MS)).open()?;
        Ok(Box::new(Sled { db, path }))
    }

    fn bytes(&self) -> u64 {
        crate::disk::size_of(&self.path())
    }

    fn wipe(&self) -> io::Result<()> {
        self.generation.fetch_add(1, Ordering::Relaxed);
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Waits for the threads of a sled that this process has closed to let its lock go; nobody else can hold it, since the
/// whole directory is locked. If they do not, opening says so.
fn until_unlocked(db: &Path) -> io::Result<()> {
    for _ in 0..UNLOCK_TRIES {
        let file = match OpenOptions::new().read(true).write(true).open(db) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
            return Ok(());
        }
        std::thread::park_timeout(UNLOCK_PAUSE);
    }
    Ok(())
}

pub struct Sled {
    db: ::sled::Db,
    path: PathBuf,
}

/// sled's key of a value's chunk.
fn chunk_key(key: &[u8], chunk: u16) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len() + 2);
    name.extend_from_slice(key);
    name.extend_from_slice(&chunk.to_be_bytes());
    name
}

/// A first chunk tells how many there are.
fn head(bytes: &[u8]) -> Result<(u16, &[u8]), EngineError> {
    match bytes {
        [low, high, rest @ ..] => Ok((u16::from_le_bytes([*low, *high]), rest)),
        _ => Err(EngineError::Damaged("a first chunk without a count".into())),
    }
}

impl Sled {
    fn whole(&self, key: &[u8], first: &[u8]) -> Result<Vec<u8>, EngineError> {
        let (chunks, rest) = head(first)?;
        let mut value = rest.to_vec();
        for chunk in 1..chunks {
            let part = self.db.get(chunk_key(key, chunk))?;
            value.extend_from_slice(&part.ok_or_else(|| EngineError::Damaged(format!("chunk {chunk} of a value is missing")))?);
        }
        Ok(value)
    }

    fn drop_chunks(&self, key: &[u8], keep: u16, batch: &mut ::sled::Batch) -> Result<(), EngineError> {
        if let Some(first) = self.db.get(chunk_key(key, 0))? {
            for chunk in keep..head(&first)?.0 {
                batch.remove(chunk_key(key, chunk));
            }
        }
        Ok(())
    }
}

impl Engine for Sled {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        match self.db.get(chunk_key(key, 0))? {
            Some(first) => Ok(Some(self.whole(key, &first)?)),
            None => Ok(None),
        }
    }

    fn scan(&self, visit: &mut dyn FnMut(&[u8], Vec<u8>) -> Result<(), EngineError>) -> Result<(), EngineError> {
        let mut current: Option<(Vec<u8>, u16, Vec<u8>)> = None;
        for found in self.db.iter() {
            let (name, bytes) = found?;
            let Some((key, chunk)) = name.split_last_chunk::<2>() else {
                return Err(EngineError::Damaged("a key without a chunk number".into()));
            };
            let chunk = u16::from_be_bytes(*chunk);
            match &mut current {
                Some((held, left, value)) if held == key && chunk > 0 && *left > 0 => {
                    value.extend_from_slice(&bytes);
                    *left -= 1;
                }
                _ if chunk == 0 => {
                    if let Some((key, left, value)) = current.take() {
                        finished(left)?;
                        visit(&key, value)?;
                    }
                    let (chunks, rest) = head(&bytes)?;
                    current = Some((key.to_vec(), chunks.saturating_sub(1), rest.to_vec()));
                }
                _ => return Err(EngineError::Damaged("a chunk without its first".into())),
            }
        }
        if let Some((key, left, value)) = current {
            finished(left)?;
            visit(&key, value)?;
        }
        Ok(())
    }

    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        let mut chunked = ::sled::Batch::default();
        for (key, change) in batch.changes {
            let (value, new) = match change {
                Change::Put(value) => (value, false),
                Change::Add(value) => (value, true),
                Change::Remove => {
                    self.drop_chunks(&key, 0, &mut chunked)?;
                    continue;
                }
            };
            let chunks = value.len().div_ceil(CHUNK).max(1);
            let count = u16::try_from(chunks).map_err(|_| EngineError::Damaged(format!("a value of {} bytes", value.len())))?;
            if !new {
                self.drop_chunks(&key, count, &mut chunked)?;
            }
            let (first, mut rest) = value.split_at(value.len().min(CHUNK));
            let mut headed = Vec::with_capacity(2 + first.len());
            headed.extend_from_slice(&count.to_le_bytes());
            headed.extend_from_slice(first);
            chunked.insert(chunk_key(&key, 0), headed);
            for chunk in 1..count {
                let part;
                (part, rest) = rest.split_at(rest.len().min(CHUNK));
                chunked.insert(chunk_key(&key, chunk), part);
            }
        }
        self.db.apply_batch(chunked)?;
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.db.flush()?;
        sync_files(&self.path)?;
        Ok(())
    }
}

fn finished(left: u16) -> Result<(), EngineError> {
    if left == 0 { Ok(()) } else { Err(EngineError::Damaged(format!("the last {left} chunks of a value are missing"))) }
}

/// Syncs every file of sled's and the directory that names them.
fn sync_files(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            match File::open(entry.path()) {
                Ok(file) => file.sync_all()?,
                // sled replaces its own small files while we look.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    File::open(dir)?.sync_all()
}
