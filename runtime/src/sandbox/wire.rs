//! What agent and shim say to each other: length-prefixed JSON on a Unix stream, descriptors beside it.
//!
//! One connection carries one request and its replies; `Watch` stays open and tells what ends. An upgraded agent talks to
//! the shims that an older one started, so fields are only ever added, and `PROTOCOL` rises when that is not enough.

use crate::spec::{ContainerSpec, ContainerStatus, Exit, ProcessSpec, Resources};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

pub const PROTOCOL: u32 = 1;
/// The longest message: a container's environment may come from several 1 MiB ConfigMaps.
const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Descriptors with one message: stdin, stdout, stderr.
const MAX_FDS: usize = 4;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope {
    pub protocol: u32,
    pub request: Request,
}

/// A container and where its files are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Launch {
    pub spec: ContainerSpec,
    /// Layers of its image, top first.
    pub layers: Vec<PathBuf>,
    /// Directory of its writable layer, on disk.
    pub writable: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Answered by `State`, and from then on by an `Exited` for every container that ends.
    Watch,
    Start(Box<Launch>),
    Kill {
        container: String,
        signal: i32,
    },
    Remove {
        container: String,
    },
    Update {
        container: Option<String>,
        resources: Resources,
    },
    /// With the process's standard descriptors, unless it has a terminal. Closing the connection kills the process.
    Exec {
        container: String,
        process: ProcessSpec,
    },
    /// Kills everything and ends the shim.
    Shutdown,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    Done,
    State {
        containers: Vec<ContainerStatus>,
    },
    /// Of exec with a terminal: the terminal's descriptor comes along.
    Started {
        pid: i32,
        started_at_ns: i64,
    },
    Exited {
        container: String,
        exit: Exit,
    },
    Failed(Failure),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Failure {
    Create(String),
    NoContainer(String),
    Invalid(String),
    Io(String),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Io(e.to_string())
    }
}

/// What a new shim reads on its standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignment {
    pub dir: PathBuf,
    pub spec: crate::spec::SandboxSpec,
}

/// What it answers on its standard output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ready {
    Pid(i32),
    Failed(String),
}

/// # Errors
/// The message is too long.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > MAX_MESSAGE_BYTES {
        return Err(io::Error::other(format!("a message of {length} bytes is too long")));
    }
    bytes[..4].copy_from_slice(&u32::try_from(length).map_err(io::Error::other)?.to_le_bytes());
    Ok(bytes)
}

/// Collects bytes and descriptors into messages.
#[derive(Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Decoder {
    /// Takes in what has come; false if the other end is closed.
    ///
    /// # Errors
    /// `WouldBlock` if nothing has.
    pub fn receive(&mut self, socket: RawFd) -> io::Result<bool> {
        let mut chunk = [0; 64 << 10];
        let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
        let mut parts = [IoSliceMut::new(&mut chunk)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let (length, received) = loop {
            match recvmsg::<()>(socket, &mut parts, Some(&mut space), flags) {
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
                Ok(message) => {
                    let mut received = Vec::new();
                    for control in message.cmsgs()? {
                        if let ControlMessageOwned::ScmRights(fds) = control {
                            // SAFETY: the kernel has just made these descriptors for us.
                            received.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                        }
                    }
                    break (message.bytes, received);
                }
            }
        };
        self.fds.extend(received);
        self.fds.truncate(MAX_FDS);
        self.bytes.extend_from_slice(&chunk[..length]);
        Ok(length > 0)
    }

    /// For bytes that came some other way.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// It is too long, or not what was expected.
    pub fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(head) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length > MAX_MESSAGE_BYTES {
            return Err(io::Error::other(format!("a message of {length} bytes is too long")));
        }
        let Some(body) = self.bytes.get(4..4 + length) else { return Ok(None) };
        let message = serde_json::from_slice(body)?;
        self.bytes.drain(..4 + length);
        Ok(Some(message))
    }
}

/// Sends what the socket takes of `bytes`, `fds` with the first of them; returns how many bytes went.
///
/// # Errors
/// `WouldBlock` if the socket takes none now.
pub fn send(socket: RawFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let parts = [IoSlice::new(bytes)];
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    loop {
        match sendmsg::<()>(socket, &parts, control, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn messages_arrive_whole_with_their_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let message = encode(&Request::Kill { container: "c".into(), signal: 9 }).unwrap();
        let mut decoder = Decoder::default();
        assert_eq!(decoder.receive(b.as_raw_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(send(a.as_raw_fd(), &message[..5], &[a.as_raw_fd()]).unwrap(), 5);
        assert!(decoder.receive(b.as_raw_fd()).unwrap());
        assert!(decoder.next::<Request>().unwrap().is_none());
        send(a.as_raw_fd(), &message[5..], &[]).unwrap();
        decoder.receive(b.as_raw_fd()).unwrap();
        assert!(matches!(decoder.next().unwrap(), Some(Request::Kill { signal: 9, .. })));
        assert_eq!(decoder.fds.len(), 1);
        drop((a, decoder.fds.drain(..)));
        assert!(!decoder.receive(b.as_raw_fd()).unwrap());
    }

    #[test]
    fn nonsense_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(decoder.next::<Request>().is_err());
    }
}
