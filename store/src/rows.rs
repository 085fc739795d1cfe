//! The applied state as entries of an ordered map: what checkpoint and snapshot hold, in the order in which it is loaded.
//!
//! A header, then leases, then versions in blocks of a few kilobytes, by their first row. The header carries a hash over all
//! other entries, which a writer keeps up by what it adds and takes away. May import: `codec`, `command`, `machine`, `state`.

use crate::codec::{self, CodecError};
use crate::command::Revision;
use crate::machine::{Machine, Row, RowKey};
use crate::state::Applied;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of rows that go into one block.
const BLOCK: usize = 3 << 10;

pub const HEADER: &[u8] = &[0];
const LEASE: u8 = 1;
const BLOCKS: u8 = 2;

#[derive(Debug, Error)]
pub enum RowsError {
    #[error("an entry does not decode: {0}")]
    Codec(#[from] CodecError),
    #[error("an entry of unknown kind")]
    Unknown,
    #[error("a version that is not behind the one before it, or beyond the image's revision")]
    Order,
    #[error("its hash is {found:016x}, its entries' {computed:016x}")]
    Hash { found: u64, computed: u64 },
}

/// What an image stands for, and how to tell that it is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub applied: Applied,
    pub revision: Revision,
    pub compacted: Revision,
    pub hash: u64,
}

/// An entry's share of the hash; shares are added, so that order does not matter and one can be taken away.
pub fn share(key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    let mut mixed = (((key.len() + value.len()) as u64) << 32) | u64::from(hasher.finalize());
    // splitmix64's finaliser: neighbouring checksums end far apart.
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

pub fn lease_key(id: i64) -> Vec<u8> {
    let mut key = vec![LEASE];
    key.extend_from_slice(&id.to_be_bytes());
    key
}

pub fn block_key(first: RowKey) -> Vec<u8> {
    let mut key = vec![BLOCKS];
    key.extend_from_slice(&first.revision.to_be_bytes());
    key.extend_from_slice(&first.sub.to_be_bytes());
    key
}

/// Whether a key is that of a block that was begun after `revision`.
pub fn is_newer(key: &[u8], revision: Revision) -> bool {
    match key {
        [BLOCKS, rest @ ..] => rest.first_chunk::<8>().is_some_and(|first| Revision::from_be_bytes(*first) > revision),
        _ => false,
    }
}

pub fn lease_value(id: i64, ttl_s: i64) -> Result<Vec<u8>, CodecError> {
    Ok(codec::encode(&vec![Row::Lease { id, ttl_s }])?.into())
}

pub fn block_value(rows: &[Row]) -> Result<Vec<u8>, CodecError> {
    Ok(codec::encode(&rows)?.into())
}

fn block_rows(value: &[u8]) -> Result<Vec<Row>, CodecError> {
    codec::decode(value)
}

/// The name of a version's row.
pub fn row_key(row: &Row) -> Option<RowKey> {
    match row {
        Row::Version { sub, kv, .. } => Some(RowKey { revision: kv.mod_revision, sub: *sub }),
        Row::Lease { .. } => None,
    }
}

/// Cuts rows (ascending) into blocks.
pub fn blocks(rows: &[Row]) -> impl Iterator<Item = &[Row]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let end = rest.iter().position(|row| {
            let full = bytes >= BLOCK;
            bytes += match row {
                Row::Version { kv, .. } => kv.key.len() + kv.value.len() + 24,
                Row::Lease { .. } => 16,
            };
            full
        });
        let (block, others) = rest.split_at(end.unwrap_or(rest.len()));
        rest = others;
        (!block.is_empty()).then_some(block)
    })
}

/// Makes a machine of entries in key order.
pub struct Loader {
    header: Header,
    machine: Machine,
    hash: u64,
    /// The last version.
    last: RowKey,
}

impl Loader {
    pub fn new(header: Header) -> Self {
        Self { machine: Machine::at(header.revision, header.compacted), header, hash: 0, last: RowKey { revision: 0, sub: u32::MAX } }
    }

    /// Bytes of keys and values up to now.
    pub fn bytes(&self) -> u64 {
        self.machine.bytes()
    }

    /// The revision that the image stands for.
    pub fn revision(&self) -> Revision {
        self.header.revision
    }

    /// Takes an entry in.
    ///
    /// # Errors
    /// It is none of ours, or not in its place.
    pub fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), RowsError> {
        if key == HEADER {
            return Ok(());
        }
        if !matches!(key.first(), Some(&LEASE | &BLOCKS)) {
            return Err(RowsError::Unknown);
        }
        self.hash = self.hash.wrapping_add(share(key, value));
        for row in block_rows(value)? {
            if let Some(version) = row_key(&row) {
                if version <= self.last || version.revision > self.header.revision {
                    return Err(RowsError::Order);
                }
                self.last = version;
            }
            self.machine.load(row);
        }
        Ok(())
    }

    /// # Errors
    /// `Hash`: an entry is missing, or not as it was written.
    pub fn finish(mut self) -> Result<(Machine, Header), RowsError> {
        if self.hash != self.header.hash {
            return Err(RowsError::Hash { found: self.header.hash, computed: self.hash });
        }
        self.machine.loaded();
        Ok((self.machine, self.header))
    }
}
