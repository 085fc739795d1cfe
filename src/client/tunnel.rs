//! The protocol of the tunnel between a node and a master, spoken by both ends.
//!
//! A node connects by TLS, asks for `PATH` with `Upgrade: orchd-tunnel`, and from then on serves HTTP/2 on that connection;
//! the master is the client. Bodies of remote commands are frames: channel (one byte), length (four bytes, big-endian),
//! payload. Channels are those of Kubernetes' remote command protocol.
//!
//! May import: nothing of ours.

use bytes::{Buf, BufMut, Bytes, BytesMut};

pub const PATH: &str = "/orchd/v1/tunnel";
pub const UPGRADE: &str = "orchd-tunnel";

/// The most that one frame may carry.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// What a frame is about.
pub mod channel {
    pub const STDIN: u8 = 0;
    pub const STDOUT: u8 = 1;
    pub const STDERR: u8 = 2;
    /// A `metav1.Status` as JSON: the end of the command.
    pub const STATUS: u8 = 3;
    /// `{"Width":80,"Height":24}`.
    pub const RESIZE: u8 = 4;
    /// The payload names the channel that ends.
    pub const CLOSE: u8 = 255;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub channel: u8,
    pub payload: Bytes,
}

/// A peer that does not speak the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes, more than {MAX_FRAME_BYTES}")]
pub struct FrameTooLong(usize);

impl Frame {
    pub fn new(channel: u8, payload: impl Into<Bytes>) -> Self {
        Self { channel, payload: payload.into() }
    }

    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(5 + self.payload.len());
        out.put_u8(self.channel);
        out.put_u32(u32::try_from(self.payload.len()).unwrap_or(u32::MAX));
        out.put_slice(&self.payload);
        out.freeze()
    }
}

/// Collects bytes as they arrive and gives out whole frames.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: BytesMut,
}

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it has arrived.
    ///
    /// # Errors
    /// The peer announces a frame longer than `MAX_FRAME_BYTES`.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameTooLong> {
        let Some(header) = self.buffer.first_chunk::<5>() else { return Ok(None) };
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let channel = header[0];
        if length > MAX_FRAME_BYTES {
            return Err(FrameTooLong(length));
        }
        if self.buffer.len() < 5 + length {
            return Ok(None);
        }
        self.buffer.advance(5);
        Ok(Some(Frame { channel, payload: self.buffer.split_to(length).freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_that_is_too_long_is_refused() {
        let mut frames = Frames::default();
        frames.push(&[1, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(frames.next_frame(), Err(FrameTooLong(0xffff_ffff)));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(list in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..8), step in 1usize..9) {
            let sent: Vec<Frame> = list.into_iter().map(|(c, p)| Frame::new(c, p)).collect();
            let bytes: Vec<u8> = sent.iter().flat_map(|f| f.encode().to_vec()).collect();
            let (mut frames, mut got) = (Frames::default(), Vec::new());
            for part in bytes.chunks(step) {
                frames.push(part);
                while let Some(frame) = frames.next_frame().unwrap() {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, sent);
        }
    }
}
