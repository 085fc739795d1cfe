//! Adding processes to containers.

use super::{Exec, Shim, What, fork, outcome};
use crate::sandbox::launch::report;
use crate::sandbox::launch::{self, Stdio};
use crate::sandbox::place::now_ns;
use crate::sandbox::wire::{Failure, Reply};
use crate::spec::{Exit, ProcessSpec};
use nix::sys::wait::WaitStatus;
use std::os::fd::OwnedFd;

impl Shim {
    /// Forks off a launcher; `settle` answers the connection. `fds` are the process's stdin, stdout and stderr.
    pub(super) fn exec(&mut self, conn: u64, container: &str, process: &ProcessSpec, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let found = self.containers.get(container).filter(|c| c.exit.is_none());
        let found = found.ok_or_else(|| Failure::NoContainer(container.to_owned()))?;
        let mut fds = fds.into_iter();
        let mut stdio = Stdio { stdin: fds.next(), stdout: fds.next(), stderr: fds.next() };
        if process.tty {
            stdio = Stdio::default();
        } else if stdio.stdin.is_none() || stdio.stdout.is_none() || stdio.stderr.is_none() {
            return Err(Failure::Invalid("a process without a terminal needs three descriptors".into()));
        }
        let (ours, theirs) = report::pair()?;
        let (context, record, cgroup) = (self.context(), &found.record, &found.cgroup);
        fork::child(|| launch::exec(&context, record, process, cgroup, stdio, &theirs))?;
        drop(theirs);
        self.launched(conn, ours, What::Exec { container: container.to_owned(), terminal: process.tty });
        Ok(())
    }

    pub(super) fn exec_ended(&mut self, exec: Exec, status: WaitStatus) {
        let (code, signal) = outcome(status);
        let exit = Exit { code, signal, oom_killed: false, started_at_ns: exec.started_at_ns, finished_at_ns: now_ns() };
        self.reply(exec.conn, &Reply::Exited { container: exec.container, exit });
        if let Some(conn) = self.conns.get_mut(&exec.conn) {
            conn.last = true;
        }
    }
}
