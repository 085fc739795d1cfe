//! The one place that knows how records are written: a format version byte, then bincode 2 (its serde form, standard
//! configuration: little endian, variable-length integers).
//!
//! Every record of the log, the checkpoint and the snapshot goes through here, so that the encoding can be exchanged for
//! a wire-compatible one, or moved on by one version. May import: nothing of ours.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use std::cell::Cell;
use thiserror::Error;

/// The version in front of every record.
const VERSION: u8 = 2;

/// Bytes that a record may claim as it is read: more than the largest message between members can, as bincode counts (a byte
/// read claims eight at most). A length beyond it is refused before memory is asked for.
const CLAIMS: usize = 8 * (16 << 20);

/// Bytes of a thread's buffer that stay allocated.
const KEEP_BUFFER: usize = 64 << 10;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Why bytes are no record of ours.
#[derive(Debug, Error)]
pub enum CodecError {
    #[error("an empty record")]
    Empty,
    #[error("a record of format {0}, this orchd knows {VERSION}")]
    Version(u8),
    #[error("a record that does not decode: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    #[error("{0} bytes follow a record's end")]
    Trailing(usize),
    #[error("a record that does not encode: {0}")]
    Encode(#[from] bincode::error::EncodeError),
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// # Errors
/// `Encode` if the type has no serde form that bincode can write.
pub fn encode<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
    // Written into a buffer that is there already, and then copied: one allocation of the right size.
    let mut out = BUFFER.take();
    out.push(VERSION);
    encode_into(value, &mut out)?;
    if out.capacity() > KEEP_BUFFER {
        return Ok(out.into());
    }
    let bytes = Bytes::copy_from_slice(&out);
    out.clear();
    BUFFER.set(out);
    Ok(bytes)
}

/// Appends without the version byte, for parts of a record.
///
/// # Errors
/// As `encode`.
pub fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    bincode::serde::encode_into_std_write(value, out, bincode::config::standard())?;
    Ok(())
}

/// # Errors
/// The bytes are not exactly one record of a known version.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (version, rest) = bytes.split_first().ok_or(CodecError::Empty)?;
    if *version != VERSION {
        return Err(CodecError::Version(*version));
    }
    let (value, used) = bincode::serde::decode_from_slice(rest, bincode::config::standard().with_limit::<CLAIMS>())?;
    if used != rest.len() {
        return Err(CodecError::Trailing(rest.len() - used));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Op, Txn};

    fn command() -> Command {
        Command::Txn(Txn { success: vec![Op::put("a", "value"), Op::delete("b")], ..Txn::default() })
    }

    #[test]
    fn a_command_comes_back_as_it_went() {
        let bytes = encode(&command()).unwrap();
        assert_eq!(decode::<Command>(&bytes).unwrap(), command());
    }

    #[test]
    fn strange_bytes_are_refused_not_misread() {
        let bytes = encode(&command()).unwrap();
        assert!(matches!(decode::<Command>(&[]), Err(CodecError::Empty)));
        let mut newer = bytes.to_vec();
        newer[0] = 9;
        assert!(matches!(decode::<Command>(&newer), Err(CodecError::Version(9))));
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(matches!(decode::<Command>(&longer), Err(CodecError::Trailing(1))));
        assert!(matches!(decode::<Command>(&bytes[..bytes.len() - 1]), Err(CodecError::Decode(_))));
    }

    #[test]
    fn a_length_that_nobody_sent_asks_for_no_memory() {
        let bytes = encode(&Command::Txn(Txn { success: vec![Op::put("key", "value")], ..Txn::default() })).unwrap();
        let at = bytes.windows(4).position(|part| part == b"\x03key").unwrap();
        let claims = |len: u64| [&bytes[..at], &[0xfd], &len.to_le_bytes(), &bytes[at + 1..]].concat();
        assert!(decode::<Command>(&claims(3)).is_ok());
        for len in [1 << 40, u64::MAX / 2, u64::MAX] {
            assert!(matches!(decode::<Command>(&claims(len)), Err(CodecError::Decode(_))), "{len}");
        }
    }

    #[test]
    fn nothing_lies_deeper_than_a_stack_is() {
        // No comparison, one operation: a transaction; and nothing in the other branch.
        let nested = |depth: usize| [&[VERSION, 0], &[0, 1, 3].repeat(depth)[..], &[0, 0, 0], &vec![0; depth]].concat();
        assert!(decode::<Command>(&nested(crate::command::MAX_OPS)).is_ok());
        for depth in [crate::command::MAX_OPS + 1, 1 << 20] {
            assert!(matches!(decode::<Command>(&nested(depth)), Err(CodecError::Decode(_))), "{depth}");
        }
    }
}
