//! The shim: one small process per sandbox, which holds its namespaces, is the parent of its containers, writes their logs
//! and records their ends. It has one thread and one loop, waits for nobody but the kernel, and outlives the agent.

mod conn;
mod exec;
mod fork;
mod logs;
mod serve;
mod setup;
mod start;

use crate::cgroup::Cgroups;
use crate::sandbox::launch::Context;
use crate::sandbox::pidfd::start_time;
use crate::sandbox::place::{ContainerRecord, Place, ShimRecord, now_ns, write_record};
use crate::sandbox::wire::{Assignment, Decoder, Ready, Reply, encode};
use crate::spec::{Exit, SandboxSpec};
use conn::Conn;
use logs::{Log, Stream};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
pub use setup::namespace_list;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

/// A container of this sandbox.
struct Container {
    record: ContainerRecord,
    cgroup: String,
    log: Log,
    streams: Vec<Stream>,
    /// The writing end of its stdin, if that is kept open.
    _stdin: Option<OwnedFd>,
    exit: Option<Exit>,
}

/// Something on its way to its program.
struct Launching {
    socket: OwnedFd,
    conn: u64,
    pid: Option<i32>,
    /// How its first process ended, if it already has.
    ended: Option<WaitStatus>,
    terminal: Option<OwnedFd>,
    failure: Option<crate::sandbox::wire::Failure>,
    /// The socket has closed: nothing more will be said.
    quiet: bool,
    what: What,
}

enum What {
    Container(Box<Container>),
    Exec { container: String, terminal: bool },
}

/// A process that exec added.
struct Exec {
    container: String,
    conn: u64,
    started_at_ns: i64,
}

struct Shim {
    place: Place,
    spec: SandboxSpec,
    cgroups: Cgroups,
    /// The mount namespace of the host.
    host: File,
    pause: Option<i32>,
    containers: BTreeMap<String, Container>,
    launching: HashMap<u64, Launching>,
    execs: HashMap<i32, Exec>,
    conns: HashMap<u64, Conn>,
    /// Ends of children that no launch has named yet.
    early: HashMap<i32, WaitStatus>,
    /// Connections that wait for the end of everything.
    shutdown: Vec<u64>,
    next: u64,
}

/// What a descriptor in the poll set is.
#[derive(Clone, Copy)]
enum Token {
    Signals,
    Listener,
    Conn(u64),
    Launch(u64),
    Stream(usize, usize),
}

/// The shim's main function: what the program runs when started with `Options::exe` and the shim's arguments. Never
/// returns to a caller that has threads: call it first thing in `main`. Gives the exit code.
pub fn main(args: &[String]) -> i32 {
    let flags = setup::namespaces(args.first().map(String::as_str).unwrap_or_default());
    let prepared = setup::detach(flags);
    let mut input = io::stdin().lock();
    let Ok(Some(assignment)) = read_assignment(&mut input) else {
        // The agent needed no shim after all.
        return 0;
    };
    drop(input);
    let started = prepared.and_then(|host| begin(host, assignment));
    let ready = match &started {
        Ok((shim, _, _)) => Ready::Pid(shim.1),
        Err(e) => Ready::Failed(e.to_string()),
    };
    if let Err(e) = encode(&ready).and_then(|bytes| io::stdout().lock().write_all(&bytes).and_then(|()| io::stdout().flush())) {
        eprintln!("the agent is gone: {e}");
        return 1;
    }
    let Ok(((mut shim, _), signals, listener)) = started else { return 1 };
    if let Err(e) = leave_stdio() {
        eprintln!("{e}");
        return 1;
    }
    shim.serve(&signals, &listener)
}

fn read_assignment(input: &mut impl Read) -> io::Result<Option<Assignment>> {
    let mut decoder = Decoder::default();
    let mut chunk = [0; 4096];
    loop {
        if let Some(assignment) = decoder.next()? {
            return Ok(Some(assignment));
        }
        match input.read(&mut chunk)? {
            0 => return Ok(None),
            length => decoder.push(&chunk[..length]),
        }
    }
}

type Started = ((Shim, i32), SignalFd, UnixListener);

fn begin(host: File, assignment: Assignment) -> io::Result<Started> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let place = Place(assignment.dir);
    let spec = assignment.spec;
    let cgroups = setup::furnish(&place, &spec)?;
    let (dir, path) = place.socket()?;
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    drop(dir);
    let mut pause = None;
    if spec.share_process_namespace {
        let pid = fork::child_in_pid_namespace(fork::pause)?;
        let cgroup = format!("{}/pause", spec.cgroup_path);
        cgroups.create(&cgroup)?;
        cgroups.attach(&cgroup, pid)?;
        pause = Some(pid);
    }
    let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    write_record(&place.shim(), &ShimRecord { pid, start_time: start_time(pid)? })?;
    let shim = Shim {
        place,
        spec,
        cgroups,
        host,
        pause,
        containers: BTreeMap::new(),
        launching: HashMap::new(),
        execs: HashMap::new(),
        conns: HashMap::new(),
        early: HashMap::new(),
        shutdown: Vec::new(),
        next: 0,
    };
    Ok(((shim, pid), signals, listener))
}

/// The agent may go; its pipes must not be missed.
fn leave_stdio() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(())
}

impl Shim {
    fn context(&self) -> Context<'_> {
        Context { sandbox: &self.spec, place: &self.place, cgroups: &self.cgroups, host: &self.host, pause: self.pause }
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn serve(&mut self, signals: &SignalFd, listener: &UnixListener) -> i32 {
        loop {
            let ready = match self.wait(signals, listener) {
                Ok(ready) => ready,
                Err(e) => {
                    eprintln!("poll: {e}");
                    return 1;
                }
            };
            for (token, events) in ready {
                match token {
                    Token::Signals => self.reap(signals),
                    Token::Listener => self.accept(listener),
                    Token::Conn(id) => self.talk(id, events),
                    Token::Launch(id) => self.hear(id),
                    Token::Stream(container, stream) => self.copy(container, stream),
                }
            }
            self.drop_ended_streams();
            if !self.shutdown.is_empty() && self.is_empty() {
                return self.end();
            }
        }
    }

    fn wait(&self, signals: &SignalFd, listener: &UnixListener) -> nix::Result<Vec<(Token, PollFlags)>> {
        let input = PollFlags::POLLIN;
        let mut tokens = vec![Token::Signals, Token::Listener];
        let mut fds = vec![PollFd::new(signals.as_fd(), input), PollFd::new(listener.as_fd(), input)];
        for (id, conn) in &self.conns {
            tokens.push(Token::Conn(*id));
            fds.push(PollFd::new(conn.socket.as_fd(), if conn.wants_to_write() { input | PollFlags::POLLOUT } else { input }));
        }
        for (id, launching) in self.launching.iter().filter(|(_, l)| !l.quiet) {
            tokens.push(Token::Launch(*id));
            fds.push(PollFd::new(launching.socket.as_fd(), input));
        }
        for (index, container) in self.containers.values().enumerate() {
            for (stream, s) in container.streams.iter().enumerate() {
                tokens.push(Token::Stream(index, stream));
                fds.push(PollFd::new(s.as_fd(), input));
            }
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
        let ready = tokens.into_iter().zip(fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())));
        Ok(ready.filter(|(_, events)| !events.is_empty()).collect())
    }

    fn copy(&mut self, container: usize, stream: usize) {
        let Some(container) = self.containers.values_mut().nth(container) else { return };
        let Container { log, streams, .. } = container;
        if let Some(s) = streams.get_mut(stream)
            && !s.copy(log)
        {
            s.ended = true;
        }
    }

    /// Only after all of a round: indexes of the poll set stay valid within it.
    fn drop_ended_streams(&mut self) {
        for container in self.containers.values_mut() {
            container.streams.retain(|s| !s.ended);
        }
    }

    /// Takes in the ends of children, and of those that they left to us.
    fn reap(&mut self, signals: &SignalFd) {
        while matches!(signals.read_signal(), Ok(Some(_))) {}
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            let Some(pid) = status.pid() else { return };
            self.ended(pid.as_raw(), status);
        }
    }

    fn ended(&mut self, pid: i32, status: WaitStatus) {
        if let Some(id) = self.containers.iter().find(|(_, c)| c.record.pid == pid && c.exit.is_none()).map(|c| c.0.clone()) {
            self.container_ended(&id, status);
        } else if let Some(exec) = self.execs.remove(&pid) {
            self.exec_ended(exec, status);
        } else if let Some(id) = self.launching.iter().find(|(_, l)| l.pid == Some(pid)).map(|l| *l.0) {
            if let Some(launching) = self.launching.get_mut(&id) {
                launching.ended = Some(status);
            }
            self.settle(id);
        } else if !self.launching.is_empty() {
            self.early.insert(pid, status);
        }
    }

    /// Nothing of a container's outlives its first process. The record is written before anyone hears of it.
    fn container_ended(&mut self, id: &str, status: WaitStatus) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Err(e) = self.cgroups.kill(&container.cgroup) {
            eprintln!("killing what {id} left: {e}");
        }
        let Container { log, streams, .. } = container;
        // What it wrote last; processes that still hold the other end are being killed.
        for stream in streams.iter_mut() {
            while readable(stream) && stream.copy(log) {}
        }
        streams.clear();
        let (code, signal) = outcome(status);
        let oom_killed = self.cgroups.oom_kills(&container.cgroup) > 0;
        let exit = Exit { code, signal, oom_killed, started_at_ns: container.record.started_at_ns, finished_at_ns: now_ns() };
        if let Err(e) = write_record(&self.place.exit(id), &exit) {
            eprintln!("recording the end of {id}: {e}");
        }
        container.exit = Some(exit.clone());
        let watching: Vec<u64> = self.conns.iter().filter(|(_, c)| c.watch).map(|c| *c.0).collect();
        for conn in watching {
            self.reply(conn, &Reply::Exited { container: id.to_owned(), exit: exit.clone() });
        }
    }

    fn is_empty(&self) -> bool {
        self.launching.is_empty() && self.execs.is_empty() && self.containers.values().all(|c| c.exit.is_some())
    }

    /// Removes what can be removed from here and answers who waits for it. Gives the exit code.
    fn end(&mut self) -> i32 {
        if let Some(pid) = self.pause {
            // SAFETY: no pointers are passed; the pause process is our child and not reaped yet.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            if let Err(e) = waitpid(nix::unistd::Pid::from_raw(pid), None) {
                eprintln!("the pause process: {e}");
            }
        }
        let removed = self.cgroups.remove(&self.spec.cgroup_path);
        for conn in std::mem::take(&mut self.shutdown) {
            let reply = match &removed {
                Ok(()) => Reply::Done,
                Err(e) => Reply::Failed(crate::sandbox::wire::Failure::Io(format!("remove cgroup: {e}"))),
            };
            self.reply(conn, &reply);
        }
        0
    }
}

fn readable(stream: &Stream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
}

/// Exit code, and the signal if there was one.
fn outcome(status: WaitStatus) -> (i32, Option<i32>) {
    match status {
        WaitStatus::Exited(_, code) => (code, None),
        WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, Some(signal as i32)),
        _ => (255, None),
    }
}
