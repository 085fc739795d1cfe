//! The agent's end of a connection to a shim.

use super::StartError;
use super::place::Place;
use super::wire::{Decoder, Envelope, Failure, PROTOCOL, Reply, Request, encode, send};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// How long a shim may take for what needs no container to start or end.
pub const ANSWER: Duration = Duration::from_secs(10);
/// How long a container may take to start: mounts of a network file system can be slow.
pub const START: Duration = Duration::from_secs(120);

pub struct Client {
    socket: UnixStream,
    decoder: Decoder,
}

impl Client {
    /// # Errors
    /// The shim is gone.
    pub async fn connect(place: &Place) -> io::Result<Self> {
        // The directory stays open until the socket is reached through it.
        let (_dir, path) = place.socket()?;
        Ok(Self { socket: UnixStream::connect(path).await?, decoder: Decoder::default() })
    }

    /// # Errors
    /// The shim is gone.
    pub async fn send(&mut self, request: Request, fds: &[RawFd]) -> io::Result<()> {
        let bytes = encode(&Envelope { protocol: PROTOCOL, request })?;
        let mut sent = 0;
        while sent < bytes.len() {
            let fds = if sent == 0 { fds } else { &[] };
            let raw = self.socket.as_raw_fd();
            sent += self.socket.async_io(Interest::WRITABLE, || send(raw, &bytes[sent..], fds)).await?;
        }
        Ok(())
    }

    /// The next reply, with its descriptors.
    ///
    /// # Errors
    /// `UnexpectedEof` if the shim is gone.
    pub async fn receive(&mut self) -> io::Result<(Reply, Vec<OwnedFd>)> {
        loop {
            if let Some(reply) = self.decoder.next()? {
                return Ok((reply, std::mem::take(&mut self.decoder.fds)));
            }
            let raw = self.socket.as_raw_fd();
            let Self { socket, decoder } = self;
            if !socket.async_io(Interest::READABLE, || decoder.receive(raw)).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Ends when the other end is closed; a shim says nothing that is not asked for.
    pub async fn ask(&mut self, request: Request, fds: &[RawFd], within: Duration) -> Result<(Reply, Vec<OwnedFd>), StartError> {
        let name = format!("{request:?}").split([' ', '(', '{']).next().unwrap_or_default().to_owned();
        let answer = async {
            self.send(request, fds).await?;
            self.receive().await
        };
        match tokio::time::timeout(within, answer).await {
            Ok(Ok((Reply::Failed(failure), _))) => Err(failure.into()),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(e)) => Err(StartError::Shim(e.to_string())),
            Err(_) => Err(StartError::Shim(format!("no answer to {name} within {within:?}"))),
        }
    }
}

impl From<Failure> for StartError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Create(text) => Self::Create(format!("unable to start container process: {text}: unknown")),
            Failure::NoContainer(id) => Self::NoContainer(id),
            Failure::Invalid(text) => Self::Invalid(text),
            Failure::Io(text) => Self::Shim(text),
        }
    }
}
