//! The launch socket: how the processes on the way to a container's program tell the shim what became of it.
//!
//! The launcher and the container's first process share one end. It closes by itself when the program runs, so an end
//! without a failure is success.

use nix::sys::socket::{AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The longest text of a failure.
const MAX_TEXT_BYTES: usize = 4096;

/// What the shim hears.
#[derive(Debug)]
pub enum Message {
    /// The process that becomes the container's.
    Pid(i32),
    /// It will not run: what runc would have said.
    Create(String),
    /// The specification asks for what cannot be.
    Invalid(String),
    /// Its terminal.
    Terminal(OwnedFd),
}

/// A pair of connected sockets: the shim's and the launcher's.
///
/// # Errors
/// Out of descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends a message; one that the shim no longer wants to hear is lost.
pub fn tell(socket: RawFd, message: &Message) {
    let (kind, body) = match message {
        Message::Pid(pid) => (b'P', pid.to_string()),
        Message::Create(text) => (b'E', text.clone()),
        Message::Invalid(text) => (b'I', text.clone()),
        Message::Terminal(_) => (b'T', String::new()),
    };
    let mut bytes = vec![kind];
    bytes.extend_from_slice(body.as_bytes());
    bytes.truncate(MAX_TEXT_BYTES);
    let fds = match message {
        Message::Terminal(fd) => vec![std::os::fd::AsRawFd::as_raw_fd(fd)],
        _ => Vec::new(),
    };
    let rights = [ControlMessage::ScmRights(&fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    if let Err(e) = sendmsg::<()>(socket, &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None) {
        eprintln!("cannot tell the shim: {e}");
    }
}

/// The next message; None at the end.
///
/// # Errors
/// `WouldBlock` if there is none now.
pub fn hear(socket: RawFd) -> io::Result<Option<Message>> {
    let mut bytes = [0; MAX_TEXT_BYTES];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(socket, &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut terminal = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just made these descriptors for us.
            terminal = fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).next_back();
        }
    }
    let length = message.bytes;
    let Some((kind, body)) = bytes[..length].split_first() else { return Ok(None) };
    let text = String::from_utf8_lossy(body).into_owned();
    Ok(Some(match (kind, terminal) {
        (b'T', Some(fd)) => Message::Terminal(fd),
        (b'P', _) => Message::Pid(text.parse().map_err(io::Error::other)?),
        (b'I', _) => Message::Invalid(text),
        _ => Message::Create(text),
    }))
}
