//! How bytes lie in a segment: frames, one per write, each with its records.
//!
//! A frame is a header (magic, length, sequence number, checksum of the body, checksum of the header) and a body of
//! records, each a kind, a length, a checksum and its bytes. Frame n+1 is only written when frame n is synced: so a bad
//! frame with a good one behind it is damage, never a torn write.
//!
//! The body is masked, and ends in a byte that is masked too, so that no sector that was written is all zeros whatever the
//! records hold: of a bad last frame, zeros then tell what was never written from what has changed since. The frames of
//! format 1 are not masked; they are read still.

use super::Record;
use bytes::Bytes;

/// Bytes of a frame's header.
pub const HEADER: usize = 24;
/// In front of frames of format 1, and of those that are written now.
const PLAIN: u32 = 0x4c47_4f31;
const MAGIC: u32 = 0x4c47_4f32;
/// What bodies are masked with, by their place in the segment. No byte of it is zero.
const MASK: [u8; 8] = 0x9e37_79b9_7f4a_7c15_u64.to_le_bytes();
/// Bytes in front of each record: kind, length, checksum.
const RECORD_HEADER: usize = 9;
/// The unit that a disk writes whole.
pub const SECTOR: usize = 512;

/// Follows the last record.
const END: u8 = 0;
const ENTRY: u8 = 1;
const TRUNCATE: u8 = 2;
const PURGE: u8 = 3;
const VOTE: u8 = 4;
const COMMITTED: u8 = 5;

/// A frame being filled.
pub struct Builder {
    bytes: Vec<u8>,
}

/// Where a record's entry payload lies within its frame.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    pub offset: usize,
    pub len: usize,
    pub crc: u32,
}

impl Builder {
    pub fn new(mut reuse: Vec<u8>) -> Self {
        reuse.clear();
        reuse.resize(HEADER, 0);
        Self { bytes: reuse }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.len() == HEADER
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends a record; of an entry, where its payload lies.
    pub fn push(&mut self, record: &Record) -> Payload {
        let start = self.bytes.len();
        self.bytes.resize(start + RECORD_HEADER, 0);
        let (kind, head): (u8, usize) = match record {
            Record::Entry { index, payload } => {
                self.bytes.extend_from_slice(&index.to_le_bytes());
                self.bytes.extend_from_slice(payload);
                (ENTRY, 8)
            }
            Record::Truncate { last } => {
                self.bytes.extend_from_slice(&last.map_or(0, |last| last + 1).to_le_bytes());
                (TRUNCATE, 8)
            }
            Record::Purge { upto, state } => {
                self.bytes.extend_from_slice(&upto.to_le_bytes());
                self.bytes.extend_from_slice(state);
                (PURGE, 8)
            }
            Record::Vote(bytes) => {
                self.bytes.extend_from_slice(bytes);
                (VOTE, 0)
            }
            Record::Committed(bytes) => {
                self.bytes.extend_from_slice(bytes);
                (COMMITTED, 0)
            }
        };
        let body = start + RECORD_HEADER;
        let payload = body + head;
        let crc = crc32fast::hash(&self.bytes[payload..]);
        let len = (self.bytes.len() - body) as u32;
        self.bytes[start] = kind;
        self.bytes[start + 1..start + 5].copy_from_slice(&len.to_le_bytes());
        self.bytes[start + 5..start + 9].copy_from_slice(&crc.to_le_bytes());
        Payload { offset: payload, len: self.bytes.len() - payload, crc }
    }

    /// Ends the frame, which goes to this place of its segment, and hands the bytes out.
    pub fn finish(mut self, sequence: u64, offset: usize) -> Vec<u8> {
        self.bytes.push(END);
        mask(&mut self.bytes[HEADER..], offset + HEADER);
        let body = crc32fast::hash(&self.bytes[HEADER..]);
        let len = (self.bytes.len() - HEADER) as u32;
        self.bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        self.bytes[4..8].copy_from_slice(&len.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
        self.bytes[16..20].copy_from_slice(&body.to_le_bytes());
        let header = crc32fast::hash(&self.bytes[0..20]);
        self.bytes[20..24].copy_from_slice(&header.to_le_bytes());
        self.bytes
    }
}

/// Masks bytes that go to this place of a segment, or takes the mask from them again.
pub fn mask(bytes: &mut [u8], offset: usize) {
    let mut turned = MASK;
    turned.rotate_left(offset % MASK.len());
    let word = u64::from_ne_bytes(turned);
    let mut words = bytes.chunks_exact_mut(8);
    for bytes in &mut words {
        let masked = u64::from_ne_bytes((&*bytes).try_into().expect("eight bytes")) ^ word;
        bytes.copy_from_slice(&masked.to_ne_bytes());
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(turned) {
        *byte ^= mask;
    }
}

/// What stands at a place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A whole frame: its sequence number, its length, header included, and whether its body is masked.
    Frame { sequence: u64, len: usize, masked: bool },
    /// Zeros: nothing was written here.
    Nothing,
    /// Neither.
    Bad(&'static str),
}

/// Looks at the bytes from one place on.
pub fn look(bytes: &[u8]) -> Found {
    let Some(header) = bytes.get(..HEADER) else {
        return if bytes.iter().all(|byte| *byte == 0) { Found::Nothing } else { Found::Bad("half a header") };
    };
    if header.iter().all(|byte| *byte == 0) {
        return Found::Nothing;
    }
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    if !matches!(word(0), MAGIC | PLAIN) || crc32fast::hash(&header[..20]) != word(20) {
        return Found::Bad("its header's checksum is wrong");
    }
    let len = word(4) as usize;
    let Some(body) = bytes.get(HEADER..HEADER + len) else { return Found::Bad("it reaches beyond its segment") };
    if crc32fast::hash(body) != word(16) {
        return Found::Bad("its checksum is wrong");
    }
    let sequence = u64::from_le_bytes(header[8..16].try_into().expect("eight bytes"));
    Found::Frame { sequence, len: HEADER + len, masked: word(0) == MAGIC }
}

/// Whether the bad bytes at `start` can be a write that did not finish: then at least one whole sector of it is still as
/// it was prepared, zero. A frame whose every sector was written is not torn but damaged.
pub fn torn(bytes: &[u8], start: usize) -> bool {
    let claimed = bytes.get(start..start + HEADER).and_then(|header| {
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let whole = matches!(word(0), MAGIC | PLAIN) && crc32fast::hash(&header[..20]) == word(20);
        whole.then_some(word(4) as usize)
    });
    // Of a header that is wrong, nothing can be believed but that a sector is written whole: only its own sectors count, to
    // the end of the last one, since a body follows.
    let end = match claimed {
        Some(claimed) => start + HEADER + claimed,
        None => (start + HEADER).next_multiple_of(SECTOR),
    };
    let end = end.min(bytes.len());
    let mut at = start;
    while at < end {
        let next = ((at / SECTOR + 1) * SECTOR).min(end);
        if bytes[at..next].iter().all(|byte| *byte == 0) {
            return true;
        }
        at = next;
    }
    false
}

/// The first byte that is not zero, looked for a page at a time.
pub fn first_written(bytes: &[u8]) -> Option<usize> {
    const PAGE: usize = 4096;
    let zeros = [0; PAGE];
    let page = bytes.chunks(PAGE).position(|page| *page != zeros[..page.len()])? * PAGE;
    bytes[page..].iter().position(|byte| *byte != 0).map(|at| page + at)
}

/// The first whole frame behind `start` whose sequence number is at least `from`.
pub fn frame_behind(bytes: &[u8], start: usize, from: u64) -> Option<usize> {
    let magics = [MAGIC.to_le_bytes(), PLAIN.to_le_bytes()];
    (start..bytes.len().saturating_sub(HEADER)).find(|at| {
        magics.iter().any(|magic| bytes[*at..*at + 4] == magic[..])
            && matches!(look(&bytes[*at..]), Found::Frame { sequence, .. } if sequence >= from)
    })
}

/// The records of a frame that `look` has found whole at this place, with the place of each one's payload in `frame`.
pub fn records(frame: &[u8], offset: usize, masked: bool) -> Option<Vec<(Record, Payload)>> {
    let mut plain = frame.to_vec();
    if masked {
        mask(&mut plain[HEADER..], offset + HEADER);
        (plain.pop()? == END).then_some(())?;
    }
    let frame = &plain[..];
    let mut found = Vec::new();
    let mut at = HEADER;
    while at < frame.len() {
        let head = frame.get(at..at + RECORD_HEADER)?;
        let len = u32::from_le_bytes(head[1..5].try_into().ok()?) as usize;
        let crc = u32::from_le_bytes(head[5..9].try_into().ok()?);
        let body = at + RECORD_HEADER;
        let bytes = frame.get(body..body + len)?;
        let number = || bytes.get(..8).and_then(|number| number.try_into().ok()).map(u64::from_le_bytes);
        let rest = |from: usize| bytes.get(from..).map(Bytes::copy_from_slice);
        let (record, head) = match head[0] {
            ENTRY => (Record::Entry { index: number()?, payload: Bytes::new() }, 8),
            TRUNCATE => (Record::Truncate { last: number()?.checked_sub(1) }, 8),
            PURGE => (Record::Purge { upto: number()?, state: rest(8)? }, 8),
            VOTE => (Record::Vote(rest(0)?), 0),
            COMMITTED => (Record::Committed(rest(0)?), 0),
            _ => return None,
        };
        found.push((record, Payload { offset: body + head, len: len.checked_sub(head)?, crc }));
        at = body + len;
    }
    Some(found)
}
