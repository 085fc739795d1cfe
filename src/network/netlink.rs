//! A blocking netlink socket. The kernel carries out a request inside the `send` itself and queues its answer before
//! that returns, so nothing here waits for anyone but the kernel.
//!
//! A socket works in the network namespace in which it was opened, whatever thread uses it.

use super::NetworkError;
use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const HEADER_LEN: usize = 16;
/// The kernel fills dumps in pieces of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 << 10;
/// Room in the socket for the answers to a large batch.
const RECEIVE_QUEUE_BYTES: usize = 4 << 20;
/// The kernel answers at once; longer than this is a broken kernel, not a slow one.
const ANSWER_TIMEOUT_SECONDS: i64 = 10;

/// A whole netlink message whose length and sequence are filled in when it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of `kind` with NLM_F_REQUEST and `flags`, to be followed by a family header and attributes.
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        Self { bytes }
    }

    /// One of a `netlink-packet-*` crate.
    pub fn of<T: NetlinkSerializable>(payload: T, flags: u16) -> Self {
        let mut header = NetlinkHeader::default();
        header.flags = flags | libc::NLM_F_REQUEST as u16;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(payload));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        Self { bytes }
    }

    pub fn header(&mut self, family: &[u8]) {
        self.bytes.extend_from_slice(family);
    }

    /// Appends an attribute, padded to four bytes.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).expect("an attribute is a name, a number or a short value");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub fn attribute_u8(&mut self, kind: u16, value: u8) {
        self.attribute(kind, &[value]);
    }

    /// Netfilter's numbers are in network order.
    pub fn attribute_u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    pub fn attribute_u64(&mut self, kind: u16, value: u64) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// A string with its closing zero.
    pub fn attribute_str(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// An attribute that holds the attributes which `fill` writes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | libc::NLA_F_NESTED as u16).to_ne_bytes());
        fill(self);
        let len = u16::try_from(self.bytes.len() - start).expect("callers bound what they nest");
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    /// Bytes so far: callers that fill a list watch this to stay below what an attribute can hold.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    fn seal(&self, sequence: u32, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(&self.bytes);
        into.resize(into.len().next_multiple_of(4), 0);
        let len = self.bytes.len() as u32;
        into[start..start + 4].copy_from_slice(&len.to_ne_bytes());
        into[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
    }

    fn request_ack(&mut self) {
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | libc::NLM_F_ACK as u16;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    }
}

/// What the kernel refused: which message of those sent, and why.
#[derive(Debug)]
pub struct Refusal {
    pub index: usize,
    pub source: io::Error,
    /// The kernel's own words, where it has any.
    pub text: Option<String>,
}

impl Refusal {
    fn of(index: usize, source: impl Into<io::Error>) -> Self {
        Self { index, source: source.into(), text: None }
    }
    pub fn is(&self, errno: nix::errno::Errno) -> bool {
        self.source.raw_os_error() == Some(errno as i32)
    }
    pub fn explain(self, what: impl Into<String>) -> NetworkError {
        let what = what.into();
        let what = self.text.map(|text| format!("{what}: {text}")).unwrap_or(what);
        NetworkError::Io { what, source: self.source }
    }
}

/// An answer as it came: its header's fields and what follows.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    whole: &'a [u8],
}

impl<'a> Answer<'a> {
    fn payload(&self) -> &'a [u8] {
        &self.whole[HEADER_LEN..]
    }

    /// The error number of an NLMSG_ERROR (0: acknowledged) or of an NLMSG_DONE.
    fn errno(&self) -> Option<i32> {
        Some(-i32::from_ne_bytes(self.payload().get(..4)?.try_into().ok()?))
    }

    fn text(&self) -> Option<String> {
        if self.flags & libc::NLM_F_ACK_TLVS as u16 == 0 {
            return None;
        }
        let payload = self.payload();
        // The request's header is echoed; with NETLINK_CAP_ACK nothing more of it.
        let attributes = Attributes(payload.get(4 + HEADER_LEN..)?);
        const NLMSGERR_ATTR_MSG: u16 = 1;
        let text = attributes.find(NLMSGERR_ATTR_MSG)?;
        Some(String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned())
    }
}

/// Splits what one `recv` brought into messages; a cut one ends it.
fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let whole = bytes.get(..len).filter(|whole| whole.len() >= HEADER_LEN)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer {
            kind: u16::from_ne_bytes([whole[4], whole[5]]),
            flags: u16::from_ne_bytes([whole[6], whole[7]]),
            sequence: u32::from_ne_bytes([whole[8], whole[9], whole[10], whole[11]]),
            whole,
        })
    })
}

/// Netlink attributes one after the other, as read from the kernel.
#[derive(Clone, Copy)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    pub fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut bytes = self.0;
        std::iter::from_fn(move || {
            let len = u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]) as usize;
            let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & libc::NLA_TYPE_MASK as u16;
            let value = bytes.get(4..len)?;
            bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    pub fn nested(self, kind: u16) -> Option<Attributes<'a>> {
        self.find(kind).map(Attributes)
    }
}

pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    send_queue_bytes: usize,
}

impl Socket {
    /// # Errors
    /// The kernel knows no such protocol, or lets this process not use it.
    pub fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_TIMEOUT_SECONDS, 0))?;
        setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_QUEUE_BYTES)?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            enable(&fd, option)?;
        }
        Ok(Self { fd, sequence: 0, send_queue_bytes: 0 })
    }

    /// Sends messages of which each is carried out by itself, and reads an answer to each. After a refusal the rest
    /// was tried nevertheless.
    ///
    /// # Errors
    /// The first refusal.
    pub fn requests(&mut self, mut messages: Vec<Message>) -> Result<(), Refusal> {
        if messages.is_empty() {
            return Ok(());
        }
        messages.iter_mut().for_each(Message::request_ack);
        let first = self.send(&messages)?;
        let mut open = messages.len();
        let mut refused: Option<Refusal> = None;
        let mut buffer = vec![0; RECEIVE_BYTES];
        while open > 0 {
            let len = self.receive(&mut buffer)?;
            for answer in answers(&buffer[..len]) {
                let index = answer.sequence.wrapping_sub(first) as usize;
                if i32::from(answer.kind) != libc::NLMSG_ERROR || index >= messages.len() {
                    continue;
                }
                open -= 1;
                let errno = answer.errno().unwrap_or(libc::EBADMSG);
                if errno != 0 && refused.as_ref().is_none_or(|r| r.index > index) {
                    refused = Some(Refusal { index, source: io::Error::from_raw_os_error(errno), text: answer.text() });
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Sends one request.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn request(&mut self, message: Message) -> Result<(), Refusal> {
        self.requests(vec![message])
    }

    /// Sends messages that are carried out all or none (nfnetlink's batch: they stand between a begin and an end).
    /// `messages` includes these two.
    ///
    /// # Errors
    /// The first refusal; nothing was changed then.
    pub fn batch(&mut self, mut messages: Vec<Message>) -> Result<(), Refusal> {
        let Some(last) = messages.len().checked_sub(2) else { return Ok(()) };
        // One acknowledgement, of the last message proper, is enough: refusals come unasked, and before it.
        messages[last].request_ack();
        let first = self.send(&messages)?;
        let mut acknowledged = false;
        let mut refused: Option<Refusal> = None;
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let len = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => len,
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(refused.unwrap_or_else(|| Refusal::of(last, e))),
            };
            for answer in answers(&buffer[..len]).filter(|a| i32::from(a.kind) == libc::NLMSG_ERROR) {
                let index = answer.sequence.wrapping_sub(first) as usize;
                let errno = answer.errno().unwrap_or(libc::EBADMSG);
                if errno == 0 {
                    acknowledged |= index == last;
                } else if index < messages.len() && refused.is_none() {
                    refused = Some(Refusal { index, source: io::Error::from_raw_os_error(errno), text: answer.text() });
                }
            }
        }
        match refused {
            Some(refusal) => Err(refusal),
            None if acknowledged => Ok(()),
            None => Err(Refusal::of(last, io::Error::other("the kernel did not answer a batch"))),
        }
    }

    /// Sends a request that is answered by many messages; gives the payload of each to `each`.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn dump(&mut self, message: Message, mut each: impl FnMut(&[u8])) -> Result<(), Refusal> {
        self.collect(message, |answer| each(answer.payload()))
    }

    /// As `dump`, for the messages of a `netlink-packet-*` crate.
    ///
    /// # Errors
    /// The kernel's refusal, or an answer that does not parse.
    pub fn dump_of<T: NetlinkSerializable + NetlinkDeserializable>(&mut self, request: T) -> Result<Vec<T>, Refusal> {
        let mut found = Vec::new();
        let mut broken = None;
        self.collect(Message::of(request, libc::NLM_F_DUMP as u16), |answer| {
            match NetlinkMessage::<T>::deserialize(answer.whole).map(NetlinkMessage::into_parts) {
                Ok((_, NetlinkPayload::InnerMessage(inner))) => found.push(inner),
                Ok(_) => {}
                Err(e) => broken = Some(Refusal::of(0, io::Error::new(io::ErrorKind::InvalidData, e.to_string()))),
            }
        })?;
        broken.map_or(Ok(found), Err)
    }

    /// Sends a request that is answered by one message or refused.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn get_of<T: NetlinkSerializable + NetlinkDeserializable>(&mut self, request: T) -> Result<T, Refusal> {
        let first = self.send(&[Message::of(request, 0)])?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let len = self.receive(&mut buffer)?;
            let Some(answer) = answers(&buffer[..len]).find(|a| a.sequence == first) else { continue };
            if i32::from(answer.kind) == libc::NLMSG_ERROR {
                let source = io::Error::from_raw_os_error(answer.errno().unwrap_or(libc::EBADMSG));
                return Err(Refusal { index: 0, source, text: answer.text() });
            }
            return match NetlinkMessage::<T>::deserialize(answer.whole).map(NetlinkMessage::into_parts) {
                Ok((_, NetlinkPayload::InnerMessage(inner))) => Ok(inner),
                Ok(_) => Err(Refusal::of(0, io::Error::from(io::ErrorKind::InvalidData))),
                Err(e) => Err(Refusal::of(0, io::Error::new(io::ErrorKind::InvalidData, e.to_string()))),
            };
        }
    }

    fn collect(&mut self, message: Message, mut each: impl FnMut(&Answer<'_>)) -> Result<(), Refusal> {
        let first = self.send(std::slice::from_ref(&message))?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let len = self.receive(&mut buffer)?;
            for answer in answers(&buffer[..len]).filter(|a| a.sequence == first) {
                match i32::from(answer.kind) {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                        let errno = answer.errno().unwrap_or(0);
                        let refusal = || Refusal { index: 0, source: io::Error::from_raw_os_error(errno), text: answer.text() };
                        return if errno == 0 { Ok(()) } else { Err(refusal()) };
                    }
                    _ => each(&answer),
                }
            }
        }
    }

    /// Sends all in one piece; returns the sequence of the first.
    fn send(&mut self, messages: &[Message]) -> Result<u32, Refusal> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(messages.iter().map(|m| m.len() + 4).sum());
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.seal(self.sequence, &mut bytes);
        }
        // A piece must fit the socket's send queue, with the kernel's own overhead.
        let needed = bytes.len() + (64 << 10);
        if needed > self.send_queue_bytes {
            setsockopt(&self.fd, sockopt::SndBufForce, &needed).map_err(|e| Refusal::of(0, e))?;
            self.send_queue_bytes = needed;
        }
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(|e| Refusal::of(0, e))?;
        Ok(first)
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize, Refusal> {
        loop {
            match recv(self.fd.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(nix::errno::Errno::EINTR) => {}
                other => return other.map_err(|e| Refusal::of(0, e)),
            }
        }
    }
}

fn enable(fd: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `on`, which outlives the call; the descriptor is open.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_written() {
        let mut message = Message::new(1, 0);
        message.attribute_str(1, "name");
        message.nest(2, |inner| {
            inner.attribute_u32(3, 7);
            inner.attribute_u8(4, 9);
        });
        let attributes = Attributes(&message.bytes[HEADER_LEN..]);
        assert_eq!(attributes.find(1), Some(&b"name\0"[..]));
        let inner = attributes.nested(2).expect("written above");
        assert_eq!(inner.find(3), Some(&[0, 0, 0, 7][..]));
        assert_eq!(inner.find(4), Some(&[9][..]));
        assert_eq!(inner.find(5), None);
    }

    #[test]
    fn a_cut_answer_ends_the_reading() {
        let mut sealed = Vec::new();
        Message::new(7, 0).seal(3, &mut sealed);
        Message::new(8, 0).seal(4, &mut sealed);
        let kinds = |bytes: &[u8]| answers(bytes).map(|a| (a.kind, a.sequence)).collect::<Vec<_>>();
        assert_eq!(kinds(&sealed), [(7, 3), (8, 4)]);
        assert_eq!(kinds(&sealed[..sealed.len() - 1]), [(7, 3)]);
        assert_eq!(kinds(&sealed[..3]), []);
        assert_eq!(Attributes(&[9, 0, 1, 0]).find(1), None);
    }
}
