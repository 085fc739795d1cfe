//! Connections of agents to a shim. None of them can hold the shim up: what an agent does not read is bounded, then dropped.

use crate::sandbox::wire::{self, Decoder, Envelope, PROTOCOL, Reply, Request};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Replies that wait to be read; then the connection is given up. An agent that comes back asks anew.
const MAX_WAITING: usize = 1024;

pub struct Conn {
    pub socket: UnixStream,
    decoder: Decoder,
    out: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// How much of the first one has gone.
    sent: usize,
    /// It wants to hear of exits.
    pub watch: bool,
    /// Close it once everything has gone.
    pub last: bool,
}

impl Conn {
    pub fn new(socket: UnixStream) -> Self {
        Self { socket, decoder: Decoder::default(), out: VecDeque::new(), sent: 0, watch: false, last: false }
    }

    pub fn wants_to_write(&self) -> bool {
        !self.out.is_empty()
    }

    /// Reads; gives a whole request and its descriptors, if one is there.
    ///
    /// # Errors
    /// The connection has ended, or speaks nonsense.
    pub fn read(&mut self) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
        match self.decoder.receive(self.socket.as_raw_fd()) {
            Ok(true) => {}
            Ok(false) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        }
        let Some(envelope) = self.decoder.next::<Envelope>()? else { return Ok(None) };
        if envelope.protocol > PROTOCOL {
            return Err(io::Error::other(format!("the agent speaks protocol {}, this shim {PROTOCOL}", envelope.protocol)));
        }
        Ok(Some((envelope.request, std::mem::take(&mut self.decoder.fds))))
    }

    /// Queues a reply and sends what goes.
    ///
    /// # Errors
    /// The connection has ended, or its reader is asleep.
    pub fn reply(&mut self, reply: &Reply, fds: Vec<OwnedFd>) -> io::Result<()> {
        if self.out.len() >= MAX_WAITING {
            return Err(io::Error::other("the agent does not read"));
        }
        self.out.push_back((wire::encode(reply)?, fds));
        self.write()
    }

    /// # Errors
    /// The connection has ended.
    pub fn write(&mut self) -> io::Result<()> {
        while let Some((bytes, fds)) = self.out.front_mut() {
            let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
            match wire::send(self.socket.as_raw_fd(), &bytes[self.sent..], &raw) {
                Ok(sent) => self.sent += sent,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
            fds.clear();
            if self.sent == bytes.len() {
                self.out.pop_front();
                self.sent = 0;
            }
        }
        Ok(())
    }
}
