//! Starting containers, and settling what has been started.

use super::logs::{Log, Stream};
use super::serve::kill;
use super::{Container, Exec, Launching, Shim, What, fork};
use crate::sandbox::launch::report::{self, Message};
use crate::sandbox::launch::{self, Stdio};
use crate::sandbox::place::{ContainerRecord, now_ns, remove_tree, write_record};
use crate::sandbox::wire::{Failure, Launch, Reply};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

impl Shim {
    /// Forks off a launcher; `settle` answers the connection.
    pub(super) fn start(&mut self, conn: u64, launch: &Launch) -> Result<(), Failure> {
        let id = &launch.spec.id;
        let taken = self.launching.values().any(|l| matches!(&l.what, What::Container(c) if c.record.spec.id == *id));
        if taken || self.containers.contains_key(id) {
            return Err(Failure::Invalid(format!("container {id} exists")));
        }
        if !self.shutdown.is_empty() {
            return Err(Failure::Invalid("the sandbox is being removed".into()));
        }
        let cgroup = format!("{}/{id}", self.spec.cgroup_path);
        let started = self.prepare(launch, &cgroup).and_then(|(stdio, container)| {
            let (ours, theirs) = report::pair()?;
            let context = self.context();
            fork::child(|| launch::create(&context, launch, &cgroup, stdio, &theirs))?;
            Ok((ours, container))
        });
        match started {
            Ok((socket, container)) => {
                self.launched(conn, socket, What::Container(Box::new(container)));
                Ok(())
            }
            Err(e) => {
                self.discard(id, &cgroup);
                Err(e.into())
            }
        }
    }

    pub(super) fn launched(&mut self, conn: u64, socket: OwnedFd, what: What) {
        let id = self.id();
        let launching = Launching { socket, conn, pid: None, ended: None, terminal: None, failure: None, quiet: false, what };
        self.launching.insert(id, launching);
    }

    fn prepare(&self, launch: &Launch, cgroup: &str) -> io::Result<(Stdio, Container)> {
        let spec = &launch.spec;
        let log = Log::open(&spec.log_path)?;
        fs::create_dir_all(self.place.container(&spec.id))?;
        self.cgroups.create(cgroup)?;
        self.cgroups.limit(cgroup, &spec.resources)?;
        if !spec.privileged {
            self.cgroups.restrict_devices(cgroup)?;
        }
        let (mut stdio, mut streams, mut kept) = (Stdio::default(), Vec::new(), None);
        if !spec.process.tty {
            for (name, end) in [("stdout", &mut stdio.stdout), ("stderr", &mut stdio.stderr)] {
                let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
                fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
                streams.push(Stream::new(read, name));
                *end = Some(write);
            }
            if spec.stdin {
                let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
                stdio.stdin = Some(read);
                kept = Some(write);
            } else {
                stdio.stdin = Some(File::open("/dev/null")?.into());
            }
        }
        let record = ContainerRecord { spec: spec.clone(), pid: 0, started_at_ns: 0 };
        Ok((stdio, Container { record, cgroup: cgroup.to_owned(), log, streams, _stdin: kept, exit: None }))
    }

    /// A launch has something to say, or will say no more.
    pub(super) fn hear(&mut self, id: u64) {
        let Some(launching) = self.launching.get_mut(&id) else { return };
        match report::hear(launching.socket.as_raw_fd()) {
            Ok(Some(Message::Pid(pid))) => {
                launching.pid = Some(pid);
                launching.ended = self.early.remove(&pid);
            }
            Ok(Some(Message::Terminal(fd))) => launching.terminal = Some(fd),
            // What is said first tells most; libcontainer repeats it less well.
            Ok(Some(Message::Create(text))) => drop(launching.failure.get_or_insert(Failure::Create(text))),
            Ok(Some(Message::Invalid(text))) => drop(launching.failure.get_or_insert(Failure::Invalid(text))),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Ok(None) => {
                launching.quiet = true;
                self.settle(id);
            }
            Err(e) => {
                launching.failure.get_or_insert(e.into());
                launching.quiet = true;
                self.settle(id);
            }
        }
    }

    /// Decides a launch once all is said, and after a failure once its process is gone.
    pub(super) fn settle(&mut self, id: u64) {
        let Some(launching) = self.launching.get_mut(&id) else { return };
        if !launching.quiet {
            return;
        }
        if launching.pid.is_none() {
            launching.failure.get_or_insert_with(|| Failure::Create("the launcher ended without a word".into()));
        }
        if let (Some(_), Some(pid), None) = (&launching.failure, launching.pid, launching.ended) {
            return kill(pid, libc::SIGKILL);
        }
        let Some(launching) = self.launching.remove(&id) else { return };
        if self.launching.is_empty() {
            self.early.clear();
        }
        match (launching.what, launching.failure, launching.pid) {
            (What::Container(container), None, Some(pid)) => {
                self.container_runs(launching.conn, *container, pid, launching.terminal, launching.ended);
            }
            (What::Exec { container, terminal }, None, Some(pid)) => {
                let started_at_ns = now_ns();
                let fds = if terminal { launching.terminal.into_iter().collect() } else { Vec::new() };
                self.reply_with(launching.conn, &Reply::Started { pid, started_at_ns }, fds);
                let exec = Exec { container, conn: launching.conn, started_at_ns };
                match launching.ended {
                    Some(status) => self.exec_ended(exec, status),
                    None if self.conns.contains_key(&exec.conn) => drop(self.execs.insert(pid, exec)),
                    // Nobody wants it any more.
                    None => {
                        kill(pid, libc::SIGKILL);
                        self.execs.insert(pid, exec);
                    }
                }
            }
            (what, failure, _) => {
                if let What::Container(container) = what {
                    self.discard(&container.record.spec.id, &container.cgroup);
                }
                let failure = failure.unwrap_or_else(|| Failure::Create("no process came of it".into()));
                self.reply(launching.conn, &Reply::Failed(failure));
            }
        }
    }

    fn container_runs(
        &mut self,
        conn: u64,
        mut container: Container,
        pid: i32,
        terminal: Option<OwnedFd>,
        ended: Option<nix::sys::wait::WaitStatus>,
    ) {
        container.record.pid = pid;
        container.record.started_at_ns = now_ns();
        if let Some(fd) = terminal {
            if let Err(e) = fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)) {
                eprintln!("terminal: {e}");
            }
            container.streams.push(Stream::new(fd, "stdout"));
        }
        let id = container.record.spec.id.clone();
        if let Err(e) = write_record(&self.place.record(&id), &container.record) {
            eprintln!("recording the start of {id}: {e}");
        }
        let reply = Reply::Started { pid, started_at_ns: container.record.started_at_ns };
        self.containers.insert(id.clone(), container);
        self.reply(conn, &reply);
        if let Some(status) = ended {
            self.container_ended(&id, status);
        }
    }

    /// Removes what a container that never ran leaves.
    fn discard(&self, id: &str, cgroup: &str) {
        let done = self.cgroups.remove(cgroup).and(remove_tree(&self.place.libcontainer().join(id)));
        if let Err(e) = done {
            eprintln!("discarding {id}: {e}");
        }
    }
}
