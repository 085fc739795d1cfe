//! Snapshots that people keep: what one holds, and a new store made of it. The file is what the etcd face sends: a snapshot,
//! zeros up to a whole page, and the sha256 of both. May import: `dir`, `disk`, `error`,
//! `machine`, `raft`, `snapshot`, `world`.

use crate::command::Revision;
use crate::dir::Dir;
use crate::disk::System;
use crate::machine::Hashing;
use crate::raft;
use crate::snapshot::{Image, Snapshots};
use crate::world::World;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

const BUFFER: usize = 128 << 10;

/// Why a snapshot is of no use, or could not be restored.
#[derive(Debug, Error)]
pub enum SavedError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is cut short or changed: its checksum is not that of its content")]
    Checksum { path: PathBuf },
    #[error("{path} is there already; a snapshot is restored into a new directory")]
    Exists { path: PathBuf },
}

/// What a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub revision: Revision,
    pub compacted: Revision,
    /// Keys at that revision.
    pub keys: usize,
    /// Bytes of the file.
    pub bytes: u64,
    /// As `HashKV` tells it at that revision.
    pub hash: u32,
}

fn failed(path: &Path) -> impl Fn(io::Error) -> SavedError {
    move |source| SavedError::Io { path: path.to_owned(), source }
}

/// Reads a snapshot through, and tells what it holds.
///
/// # Errors
/// It cannot be read, or is not as it was sent.
pub fn inspect(path: &Path) -> Result<Summary, SavedError> {
    check(path)?;
    Ok(open(path)?.1)
}

fn open(path: &Path) -> Result<(Image, Summary), SavedError> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let image = Image::open(Arc::new(System), path).and_then(|image| image.ok_or_else(missing)).map_err(failed(path))?;
    let machine = image.load().map_err(failed(path))?;
    let everything = crate::RangeRequest { count_only: true, ..crate::RangeRequest::new(crate::KeyRange::prefix("")) };
    let refused = |error: crate::StoreError| failed(path)(io::Error::other(error));
    let mut hashing = Hashing::new(&machine, 0).map_err(refused)?;
    let hash = loop {
        if let Some(hash) = hashing.slice(&machine).map_err(refused)? {
            break hash.hash;
        }
    };
    let summary = Summary {
        revision: machine.revision(),
        compacted: machine.compacted(),
        keys: machine.range(&everything).map_err(refused)?.count,
        bytes: std::fs::metadata(path).map_err(failed(path))?.len(),
        hash,
    };
    Ok((image, summary))
}

/// The last 32 bytes are the sha256 of all before them.
fn check(path: &Path) -> Result<(), SavedError> {
    let mut file = File::open(path).map_err(failed(path))?;
    let len = file.metadata().map_err(failed(path))?.len();
    let changed = || SavedError::Checksum { path: path.to_owned() };
    let mut left = len.checked_sub(Sha256::output_size() as u64).ok_or_else(changed)?;
    let mut digest = Sha256::new();
    let mut piece = vec![0; BUFFER];
    while left > 0 {
        let size = piece.len().min(left as usize);
        file.read_exact(&mut piece[..size]).map_err(failed(path))?;
        digest.update(&piece[..size]);
        left -= size as u64;
    }
    let mut wanted = Vec::new();
    file.read_to_end(&mut wanted).map_err(failed(path))?;
    if digest.finalize()[..] != wanted[..] {
        return Err(changed());
    }
    Ok(())
}

/// Makes a store of one new member, named `name`, of a snapshot. Others join it as they join every store.
///
/// # Errors
/// As `inspect`; the directory exists, or cannot be written.
pub async fn restore(path: &Path, dir: &Path, name: &str) -> Result<Summary, SavedError> {
    if dir.exists() {
        return Err(SavedError::Exists { path: dir.to_owned() });
    }
    check(path)?;
    let (image, summary) = open(path)?;
    let world = World::default();
    let held = Dir::open(world.disk.clone(), dir).map_err(|error| failed(dir)(io::Error::other(error)))?;
    let applied = raft::found(&world, &held, name, image.applied()).await.map_err(failed(dir))?;
    image.copy(applied, &Snapshots::path(dir)).map_err(failed(dir))?;
    Ok(summary)
}
