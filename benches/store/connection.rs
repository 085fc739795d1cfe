//! One HTTP/2 connection that carries gRPC calls, by hand: frames are put together and taken apart in place, request headers
//! are a few indexed bytes from the second call on, and response headers are skipped. A client library (h2, tonic) costs the
//! generator more than orchd's or the stub's side of a call costs the server; on a shared machine that hides what is measured.
//!
//! What follows from skipping headers: an answer without a message is a failure, whose text is not decoded.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
/// The largest frame that a server may send, and that we send, unless agreed otherwise.
const FRAME: usize = 16384;
const WINDOW: i64 = 65535;
const MAX_WINDOW: u32 = 0x7fff_ffff;
/// Bytes taken in before the server's window is opened again.
const REOPEN: u32 = 1 << 28;
const INPUT: usize = 256 << 10;

mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RESET: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GO_AWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
}

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// What came in for a caller. `caller` is what `open` was given.
#[derive(Debug)]
pub enum Event {
    Message {
        caller: usize,
        message: Vec<u8>,
    },
    /// The call is over; `clean`: not by a reset.
    End {
        caller: usize,
        clean: bool,
    },
}

struct Stream {
    id: u32,
    caller: usize,
    /// Bytes that may still be sent on it.
    window: i64,
    taken: u32,
    /// An incomplete message.
    partial: Vec<u8>,
}

/// Bytes that wait for the server's window.
struct Body {
    stream: u32,
    bytes: Vec<u8>,
    at: usize,
    end: bool,
}

pub struct Connection {
    pub socket: TcpStream,
    authority: String,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
    written: usize,
    next: u32,
    window: i64,
    initial_window: i64,
    taken: u32,
    streams: Vec<Stream>,
    bodies: VecDeque<Body>,
    /// What the server's header table holds of ours, oldest first.
    table: Vec<&'static str>,
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

impl Connection {
    /// # Errors
    /// Nobody listens.
    pub fn open(address: SocketAddr) -> std::io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut output = PREFACE.to_vec();
        let mut settings = vec![0, 2, 0, 0, 0, 0, 0, 4];
        settings.extend_from_slice(&MAX_WINDOW.to_be_bytes());
        frame(&mut output, kind::SETTINGS, 0, 0, &settings);
        frame(&mut output, kind::WINDOW_UPDATE, 0, 0, &(MAX_WINDOW - WINDOW as u32).to_be_bytes());
        Ok(Self {
            socket,
            authority: address.to_string(),
            input: vec![0; INPUT],
            filled: 0,
            output,
            written: 0,
            next: 1,
            window: WINDOW,
            initial_window: WINDOW,
            taken: 0,
            streams: Vec::new(),
            bodies: VecDeque::new(),
            table: Vec::new(),
        })
    }

    /// Begins a call with its first message; `end`: there will be no other. Returns the stream, for `send`.
    pub fn call(&mut self, caller: usize, path: &'static str, message: &[u8], end: bool) -> u32 {
        let id = self.next;
        self.next += 2;
        let block = self.headers(path);
        frame(&mut self.output, kind::HEADERS, END_HEADERS, id, &block);
        self.streams.push(Stream { id, caller, window: self.initial_window, taken: 0, partial: Vec::new() });
        self.send(id, message, end);
        id
    }

    /// Sends a message on an open stream.
    pub fn send(&mut self, stream: u32, message: &[u8], end: bool) {
        let mut bytes = Vec::with_capacity(message.len() + 5);
        bytes.push(0);
        bytes.extend_from_slice(&(message.len() as u32).to_be_bytes());
        bytes.extend_from_slice(message);
        self.bodies.push_back(Body { stream, bytes, at: 0, end });
        self.pump();
    }

    /// The header block of a call (HPACK): literals that enter the server's table when first used, and their index after.
    fn headers(&mut self, path: &'static str) -> Vec<u8> {
        let mut block = vec![0x83, 0x86];
        let authority = self.authority.clone();
        self.field(&mut block, path, 0x44, None, path);
        self.field(&mut block, "authority", 0x41, None, &authority);
        self.field(&mut block, "content-type", 0x5f, None, "application/grpc");
        self.field(&mut block, "te", 0x40, Some("te"), "trailers");
        block
    }

    fn field(&mut self, block: &mut Vec<u8>, what: &'static str, literal: u8, name: Option<&str>, value: &str) {
        const DYNAMIC: usize = 62;
        if let Some(at) = self.table.iter().position(|held| *held == what) {
            let index = DYNAMIC + self.table.len() - 1 - at;
            assert!(index < 127, "more headers than the generator knows to index");
            block.push(0x80 | index as u8);
            return;
        }
        block.push(literal);
        for text in name.into_iter().chain([value]) {
            assert!(text.len() < 127, "a header longer than the generator knows to encode");
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
        self.table.push(what);
    }

    /// Frames as much of the waiting bodies as the windows let through.
    fn pump(&mut self) {
        let mut at = 0;
        while at < self.bodies.len() && self.window > 0 {
            let body = &mut self.bodies[at];
            let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == body.stream) else {
                self.bodies.remove(at);
                continue;
            };
            while self.window > 0 && stream.window > 0 && body.at < body.bytes.len() {
                let most = self.window.min(stream.window).min(FRAME as i64) as usize;
                let take = most.min(body.bytes.len() - body.at);
                let last = body.end && body.at + take == body.bytes.len();
                frame(&mut self.output, kind::DATA, u8::from(last) * END_STREAM, body.stream, &body.bytes[body.at..body.at + take]);
                body.at += take;
                self.window -= take as i64;
                stream.window -= take as i64;
            }
            if body.at == body.bytes.len() {
                self.bodies.remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// Writes what it can; true: there is more, which wants the socket to become writable.
    ///
    /// # Errors
    /// The connection broke.
    pub fn flush(&mut self) -> std::io::Result<bool> {
        while self.written < self.output.len() {
            match self.socket.write(&self.output[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(false)
    }

    /// Reads what is there, once.
    ///
    /// # Errors
    /// The connection broke, or the server said good-bye.
    pub fn read(&mut self, events: &mut Vec<Event>) -> std::io::Result<()> {
        match self.socket.read(&mut self.input[self.filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..self.filled];
        while rest.len() >= FRAME_HEADER {
            let len = word(&[0, rest[0], rest[1], rest[2]]) as usize;
            let Some(payload) = rest.get(FRAME_HEADER..FRAME_HEADER + len) else { break };
            self.take(rest[3], rest[4], word(&rest[5..9]) & MAX_WINDOW, payload, events)?;
            rest = &rest[FRAME_HEADER + len..];
        }
        let (left, used) = (rest.len(), self.filled - rest.len());
        self.input = input;
        self.input.copy_within(used..used + left, 0);
        self.filled = left;
        self.pump();
        Ok(())
    }

    fn take(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8], events: &mut Vec<Event>) -> std::io::Result<()> {
        match kind {
            kind::DATA => {
                self.data(stream, payload, events);
                if flags & END_STREAM != 0 {
                    self.end(stream, true, events);
                }
            }
            kind::HEADERS if flags & END_STREAM != 0 => self.end(stream, true, events),
            kind::RESET => self.end(stream, false, events),
            kind::SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6).filter(|setting| setting[..2] == [0, 4]) {
                    let window = i64::from(word(&setting[2..]));
                    for stream in &mut self.streams {
                        stream.window += window - self.initial_window;
                    }
                    self.initial_window = window;
                }
                frame(&mut self.output, kind::SETTINGS, ACK, 0, &[]);
            }
            kind::PING if flags & ACK == 0 => frame(&mut self.output, kind::PING, ACK, 0, payload),
            kind::GO_AWAY => {
                return Err(std::io::Error::other(format!("the server said good-bye: {}", String::from_utf8_lossy(&payload[8..]))));
            }
            kind::WINDOW_UPDATE => {
                let more = i64::from(word(payload));
                if stream == 0 {
                    self.window += more;
                } else if let Some(held) = self.streams.iter_mut().find(|held| held.id == stream) {
                    held.window += more;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn data(&mut self, id: u32, payload: &[u8], events: &mut Vec<Event>) {
        let reopen = |out: &mut Vec<u8>, taken: &mut u32, stream: u32| {
            *taken += payload.len() as u32;
            if *taken >= REOPEN {
                frame(out, kind::WINDOW_UPDATE, 0, stream, &taken.to_be_bytes());
                *taken = 0;
            }
        };
        reopen(&mut self.output, &mut self.taken, 0);
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) else { return };
        reopen(&mut self.output, &mut stream.taken, id);
        let caller = stream.caller;
        let whole = |bytes: &[u8]| bytes.len() >= 5 && bytes.len() - 5 >= word(&bytes[1..]) as usize;
        let mut hand_out = |mut bytes: &[u8]| {
            let all = bytes.len();
            while whole(bytes) {
                let (message, rest) = bytes[5..].split_at(word(&bytes[1..]) as usize);
                events.push(Event::Message { caller, message: message.to_vec() });
                bytes = rest;
            }
            all - bytes.len()
        };
        if stream.partial.is_empty() {
            let used = hand_out(payload);
            stream.partial.extend_from_slice(&payload[used..]);
        } else {
            stream.partial.extend_from_slice(payload);
            let used = hand_out(&stream.partial);
            stream.partial.drain(..used);
        }
    }

    fn end(&mut self, id: u32, clean: bool, events: &mut Vec<Event>) {
        if let Some(at) = self.streams.iter().position(|stream| stream.id == id) {
            events.push(Event::End { caller: self.streams.swap_remove(at).caller, clean });
        }
    }
}
