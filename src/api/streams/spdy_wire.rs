//! SPDY/3.1 frames and header blocks (draft-mbelshe-httpbis-spdy-00, sections 2.2 and 2.6.10): bytes in, frames out.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use thiserror::Error;

pub(super) const FLAG_FIN: u8 = 1;
/// The dictionary that both sides prime their header compression with (section 2.6.10.1).
const DICTIONARY: &[u8] = include_bytes!("spdy_dictionary.bin");
const VERSION: u16 = 3;
const MAX_FRAME_BYTES: usize = 1 << 20;
/// Headers that unpack to more than this are no streamtype.
const MAX_HEADER_BYTES: usize = 16 << 10;

#[derive(Debug, Error)]
pub(super) enum SpdyError {
    #[error("a frame of {0} bytes")]
    TooLong(usize),
    #[error("malformed SPDY: {0}")]
    Malformed(&'static str),
    #[error("the client did not open its streams in time")]
    Slow,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SpdyFrame {
    /// A new stream; `block` is its compressed headers.
    Open {
        id: u32,
        block: Bytes,
    },
    Data {
        id: u32,
        last: bool,
        payload: Bytes,
    },
    Reset {
        id: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Settings, window updates, headers: nothing that a remote command needs.
    Other,
}

/// Takes the next whole frame off the buffer; None if it has not arrived yet.
pub(super) fn take_frame(buffer: &mut BytesMut) -> Result<Option<SpdyFrame>, SpdyError> {
    let Some(head) = buffer.first_chunk::<8>().copied() else { return Ok(None) };
    let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(SpdyError::TooLong(length));
    }
    if buffer.len() < 8 + length {
        return Ok(None);
    }
    buffer.advance(8);
    let mut payload = buffer.split_to(length).freeze();
    let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    if first & 0x8000_0000 == 0 {
        return Ok(Some(SpdyFrame::Data { id: first, last: head[4] & FLAG_FIN != 0, payload }));
    }
    let number = |payload: &mut Bytes| payload.try_get_u32().map(|n| n & 0x7fff_ffff).map_err(|_| SpdyError::Malformed("a short frame"));
    Ok(Some(match first & 0xffff {
        1 => {
            let id = number(&mut payload)?;
            if payload.len() < 6 {
                return Err(SpdyError::Malformed("a short SYN_STREAM"));
            }
            payload.advance(6);
            SpdyFrame::Open { id, block: payload }
        }
        3 => SpdyFrame::Reset { id: number(&mut payload)? },
        6 => SpdyFrame::Ping { id: number(&mut payload)? },
        7 => SpdyFrame::GoAway,
        _ => SpdyFrame::Other,
    }))
}

pub(super) fn data_frame(id: u32, last: bool, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + payload.len());
    out.put_u32(id & 0x7fff_ffff);
    out.put_u8(if last { FLAG_FIN } else { 0 });
    out.put_uint(payload.len() as u64, 3);
    out.put_slice(payload);
    out.freeze()
}

pub(super) fn ping_frame(id: u32) -> Bytes {
    control_frame(6, &id.to_be_bytes())
}

fn control_frame(kind: u16, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + payload.len());
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u8(0);
    out.put_uint(payload.len() as u64, 3);
    out.put_slice(payload);
    out.freeze()
}

/// Unpacks header blocks; one for a connection, since each block builds on those before it.
pub(super) struct HeaderReader(Decompress);

impl HeaderReader {
    pub fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// Name and value pairs, names in lower case.
    pub fn read(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
        let mut plain = BytesMut::from(&self.inflate(block)?[..]);
        let short = |_| SpdyError::Malformed("short headers");
        let count = plain.try_get_u32().map_err(short)?;
        let text = |plain: &mut BytesMut| {
            let length = plain.try_get_u32().map_err(short)? as usize;
            if length > plain.len() {
                return Err(SpdyError::Malformed("short headers"));
            }
            Ok(String::from_utf8_lossy(&plain.split_to(length)).into_owned())
        };
        (0..count).map(|_| Ok((text(&mut plain)?.to_ascii_lowercase(), text(&mut plain)?))).collect()
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut out = Vec::with_capacity(MAX_HEADER_BYTES);
        let start = self.0.total_in();
        loop {
            let rest = block.get(usize::try_from(self.0.total_in() - start).unwrap_or(usize::MAX)..).unwrap_or_default();
            match self.0.decompress_vec(rest, &mut out, FlushDecompress::Sync) {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(DICTIONARY).map_err(|_| SpdyError::Malformed("headers with another dictionary"))?;
                }
                Err(_) => return Err(SpdyError::Malformed("headers that do not unpack")),
                Ok(_) if out.len() == out.capacity() => return Err(SpdyError::TooLong(out.len())),
                Ok(Status::Ok) if (self.0.total_in() - start) < block.len() as u64 => {}
                Ok(_) => return Ok(out),
            }
        }
    }
}

/// Packs header blocks.
pub(super) struct HeaderWriter(Compress);

impl HeaderWriter {
    pub fn new() -> Result<Self, SpdyError> {
        let mut packer = Compress::new(Compression::fast(), true);
        packer.set_dictionary(DICTIONARY).map_err(|_| SpdyError::Malformed("the dictionary does not load"))?;
        Ok(Self(packer))
    }

    /// A SYN_REPLY with these headers.
    pub fn reply(&mut self, id: u32, headers: &[(&str, &str)]) -> Result<Bytes, SpdyError> {
        let mut plain = BytesMut::new();
        plain.put_u32(u32::try_from(headers.len()).unwrap_or_default());
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(u32::try_from(text.len()).unwrap_or_default());
            plain.put_slice(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(plain.len() + 256);
        self.0.compress_vec(&plain, &mut packed, FlushCompress::Sync).map_err(|_| SpdyError::Malformed("headers that do not pack"))?;
        let mut payload = BytesMut::new();
        payload.put_u32(id & 0x7fff_ffff);
        payload.put_slice(&packed);
        Ok(control_frame(2, &payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_blocks_of_one_connection_unpack_in_order() {
        let (mut writer, mut reader) = (HeaderWriter::new().unwrap(), HeaderReader::new());
        for kind in ["error", "stdin", "stdout"] {
            let frame = writer.reply(3, &[("streamtype", kind), ("port", "80")]).unwrap();
            // A reply differs from an opening by what stands before its block.
            let headers = reader.read(&frame[12..]).unwrap();
            assert_eq!(headers, [("streamtype".to_owned(), kind.to_owned()), ("port".to_owned(), "80".to_owned())]);
        }
        assert!(reader.read(b"\0\0\0\0").is_err());
    }

    #[test]
    fn frames_are_told_apart() {
        let mut buffer = BytesMut::from(&data_frame(5, true, b"hi")[..]);
        buffer.extend_from_slice(&ping_frame(7));
        let data = SpdyFrame::Data { id: 5, last: true, payload: Bytes::from_static(b"hi") };
        assert_eq!(take_frame(&mut buffer).unwrap(), Some(data));
        assert_eq!(take_frame(&mut buffer).unwrap(), Some(SpdyFrame::Ping { id: 7 }));
        assert_eq!(take_frame(&mut buffer).unwrap(), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = take_frame(&mut buffer) {
                if let SpdyFrame::Open { block, .. } = frame {
                    let _ = HeaderReader::new().read(&block);
                }
            }
            let _ = HeaderReader::new().read(&bytes);
        }
    }
}
