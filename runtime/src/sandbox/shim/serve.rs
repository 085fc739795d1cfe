//! Answering requests.

use super::conn::Conn;
use super::{Shim, What};
use crate::sandbox::wire::{Failure, Reply, Request};
use crate::spec::{ContainerState, ContainerStatus, Resources};
use nix::poll::PollFlags;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

impl Shim {
    pub(super) fn accept(&mut self, listener: &UnixListener) {
        match listener.accept() {
            Ok((socket, _)) => {
                let id = self.id();
                self.conns.insert(id, Conn::new(socket));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => eprintln!("accept: {e}"),
        }
    }

    /// A connection is ready to be read or written.
    pub(super) fn talk(&mut self, id: u64, events: PollFlags) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let mut done = Ok(());
        if events.contains(PollFlags::POLLOUT) {
            done = conn.write();
        }
        let mut request = None;
        if done.is_ok() && events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            match conn.read() {
                Ok(found) => request = found,
                Err(e) => done = Err(e),
            }
        }
        if done.is_err() || conn.last && !conn.wants_to_write() {
            return self.hang_up(id);
        }
        if let Some((request, fds)) = request {
            self.answer(id, request, fds);
        }
    }

    /// A connection is over: processes that it asked for are not wanted any more.
    fn hang_up(&mut self, id: u64) {
        self.conns.remove(&id);
        for (pid, _) in self.execs.iter().filter(|(_, e)| e.conn == id) {
            kill(*pid, libc::SIGKILL);
        }
        for launching in self.launching.values().filter(|l| l.conn == id) {
            if let (What::Exec { .. }, Some(pid), None) = (&launching.what, launching.pid, launching.ended) {
                kill(pid, libc::SIGKILL);
            }
        }
    }

    pub(super) fn reply(&mut self, id: u64, reply: &Reply) {
        self.reply_with(id, reply, Vec::new());
    }

    pub(super) fn reply_with(&mut self, id: u64, reply: &Reply, fds: Vec<OwnedFd>) {
        if let Some(conn) = self.conns.get_mut(&id)
            && let Err(e) = conn.reply(reply, fds)
        {
            eprintln!("a connection ends: {e}");
            self.hang_up(id);
        }
    }

    fn answer(&mut self, id: u64, request: Request, fds: Vec<OwnedFd>) {
        let done = match request {
            Request::Watch => {
                let containers = self.containers.values().map(status).collect();
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.watch = true;
                }
                return self.reply(id, &Reply::State { containers });
            }
            Request::Start(launch) => match self.start(id, &launch) {
                Ok(()) => return,
                failed => failed,
            },
            Request::Exec { container, process } => match self.exec(id, &container, &process, fds) {
                Ok(()) => return,
                failed => failed,
            },
            Request::Kill { container, signal } => self.kill(&container, signal),
            Request::Remove { container } => self.remove(&container),
            Request::Update { container, resources } => self.update(container.as_deref(), &resources),
            Request::Shutdown => return self.shut_down(id),
        };
        let reply = match done {
            Ok(()) => Reply::Done,
            Err(failure) => Reply::Failed(failure),
        };
        self.reply(id, &reply);
    }

    fn kill(&self, container: &str, signal: i32) -> Result<(), Failure> {
        let found = self.containers.get(container).ok_or_else(|| Failure::NoContainer(container.to_owned()))?;
        if found.exit.is_none() {
            // Our child, not reaped: the pid is its own.
            kill(found.record.pid, signal);
        }
        Ok(())
    }

    fn remove(&mut self, container: &str) -> Result<(), Failure> {
        let Some(found) = self.containers.get(container) else { return Ok(()) };
        if found.exit.is_none() {
            return Err(Failure::Invalid(format!("container {container} is running")));
        }
        self.cgroups.remove(&found.cgroup)?;
        crate::sandbox::place::remove_tree(&self.place.libcontainer().join(container))?;
        self.containers.remove(container);
        Ok(())
    }

    fn update(&mut self, container: Option<&str>, resources: &Resources) -> Result<(), Failure> {
        let cgroup = match container {
            None => &self.spec.cgroup_path,
            Some(id) => &self.containers.get(id).ok_or_else(|| Failure::NoContainer(id.to_owned()))?.cgroup,
        };
        Ok(self.cgroups.limit(cgroup, resources)?)
    }

    /// Kills everything; the loop ends once it has.
    fn shut_down(&mut self, id: u64) {
        self.shutdown.push(id);
        for container in self.containers.values().filter(|c| c.exit.is_none()) {
            kill(container.record.pid, libc::SIGKILL);
        }
        self.execs.keys().for_each(|pid| kill(*pid, libc::SIGKILL));
        self.launching.values().filter(|l| l.ended.is_none()).filter_map(|l| l.pid).for_each(|pid| kill(pid, libc::SIGKILL));
        for container in self.containers.values() {
            if let Err(e) = self.cgroups.kill(&container.cgroup) {
                eprintln!("kill {}: {e}", container.cgroup);
            }
        }
    }
}

fn status(container: &super::Container) -> ContainerStatus {
    let state = match &container.exit {
        Some(exit) => ContainerState::Exited(exit.clone()),
        None => ContainerState::Running { pid: container.record.pid, started_at_ns: container.record.started_at_ns },
    };
    ContainerStatus { spec: container.record.spec.clone(), state }
}

/// Signals a child of ours that is not reaped yet.
pub(super) fn kill(pid: i32, signal: i32) {
    // SAFETY: no pointers are passed.
    if unsafe { libc::kill(pid, signal) } < 0 {
        eprintln!("kill({pid}, {signal}): {}", io::Error::last_os_error());
    }
}
