//! Many connections on one thread: epoll, and nothing else.

use super::connection::{Connection, Event};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Connections to the members in turn.
pub struct Pool {
    epoll: Epoll,
    pub connections: Vec<Connection>,
    /// Connections that wait to become writable.
    full: Vec<bool>,
}

impl Pool {
    pub fn open(endpoints: &[SocketAddr], connections: usize) -> std::io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut pool = Self { epoll, connections: Vec::new(), full: vec![false; connections] };
        for at in 0..connections {
            let connection = Connection::open(endpoints[at % endpoints.len()])?;
            pool.epoll.add(&connection.socket, EpollEvent::new(EpollFlags::EPOLLIN, at as u64))?;
            pool.connections.push(connection);
            pool.flush(at)?;
        }
        Ok(pool)
    }

    pub fn flush(&mut self, at: usize) -> std::io::Result<()> {
        let connection = &mut self.connections[at];
        let full = connection.flush()?;
        if full != self.full[at] {
            let wanted = if full { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            self.epoll.modify(&connection.socket, &mut EpollEvent::new(wanted, at as u64))?;
            self.full[at] = full;
        }
        Ok(())
    }

    /// Waits until something comes in, `deadline` at the latest. `handle` sees every event with its connection, which is
    /// flushed after.
    pub fn turn(&mut self, deadline: Instant, mut handle: impl FnMut(usize, &mut Connection, Event)) -> std::io::Result<()> {
        let mut ready = [EpollEvent::empty(); 128];
        let wait = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let timeout = EpollTimeout::try_from(wait).map_err(std::io::Error::other)?;
        let count = match self.epoll.wait(&mut ready, timeout) {
            Err(nix::Error::EINTR) => 0,
            other => other?,
        };
        let mut events = Vec::new();
        for event in &ready[..count] {
            let at = event.data() as usize;
            if event.events().intersects(!EpollFlags::EPOLLOUT) {
                self.connections[at].read(&mut events)?;
                for event in events.drain(..) {
                    handle(at, &mut self.connections[at], event);
                }
            }
            self.flush(at)?;
        }
        Ok(())
    }
}

/// One call on a connection of its own; its messages, in order.
///
/// # Errors
/// The connection broke, or the call failed or took too long.
pub fn call(endpoint: SocketAddr, path: &'static str, message: &[u8], limit: Duration) -> std::io::Result<Vec<Vec<u8>>> {
    let deadline = Instant::now() + limit;
    let mut pool = Pool::open(&[endpoint], 1)?;
    pool.connections[0].call(0, path, message, true);
    pool.flush(0)?;
    let mut messages = Vec::new();
    let mut ended = None;
    while ended.is_none() && Instant::now() < deadline {
        pool.turn(deadline, |_, _, event| match event {
            Event::Message { message, .. } => messages.push(message),
            Event::End { clean, .. } => ended = Some(clean),
        })?;
    }
    match ended {
        Some(true) if !messages.is_empty() => Ok(messages),
        Some(_) => Err(std::io::Error::other(format!("{path} failed"))),
        None => Err(std::io::ErrorKind::TimedOut.into()),
    }
}
