//! Running another process in a container: the agent's side. Pipes go to the process itself; the shim only waits for it.

use super::client::{Client, START};
use super::handle::Runtime;
use super::place::check_id;
use super::wire::{Reply, Request};
use super::{ExecSession, StartError};
use crate::spec::{Exit, ProcessSpec};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{mpsc, oneshot};

/// Sizes that have not been set yet.
const MAX_RESIZES: usize = 16;

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

fn pipe() -> io::Result<Pipe> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    Ok(Pipe { read, write })
}

impl Runtime {
    /// Runs another process in a running container, with the container's seccomp filter and cgroup. A session that is
    /// dropped, or whose `exit` is, kills the process.
    ///
    /// # Errors
    /// See `StartError`.
    pub async fn exec(&self, sandbox: &str, container: &str, process: ProcessSpec, stdin: bool) -> Result<ExecSession, StartError> {
        check_id(container)?;
        if process.args.is_empty() {
            return Err(StartError::Invalid("no command specified".into()));
        }
        let client = self.shim(sandbox).await?;
        let request = Request::Exec { container: container.to_owned(), process: process.clone() };
        if process.tty { with_terminal(client, request, stdin).await } else { with_pipes(client, request, stdin).await }
    }
}

async fn ask(client: &mut Client, request: Request, fds: &[RawFd]) -> Result<Vec<OwnedFd>, StartError> {
    match client.ask(request, fds, START).await {
        Ok((Reply::Started { .. }, fds)) => Ok(fds),
        Ok(_) => Err(StartError::Shim("an answer to another question".into())),
        Err(StartError::Create(text)) => {
            Err(StartError::Exec(text.replace("unable to start container process", "exec failed: unable to start container process")))
        }
        Err(e) => Err(e),
    }
}

async fn with_pipes(mut client: Client, request: Request, stdin: bool) -> Result<ExecSession, StartError> {
    let (output, errors) = (pipe()?, pipe()?);
    let (input, ours) = if stdin {
        let input = pipe()?;
        (input.read, Some(input.write))
    } else {
        (std::fs::File::open("/dev/null")?.into(), None)
    };
    let fds = [input.as_raw_fd(), output.write.as_raw_fd(), errors.write.as_raw_fd()];
    ask(&mut client, request, &fds).await?;
    // Else the ends that the process closes would stay open here.
    drop((input, output.write, errors.write));
    // Nobody has a terminal to resize.
    let (resize, _) = mpsc::channel(1);
    Ok(ExecSession {
        stdin: ours.map(|fd| tokio::fs::File::from_std(fd.into())),
        stdout: Receiver::from_owned_fd(output.read)?,
        stderr: Some(Receiver::from_owned_fd(errors.read)?),
        resize,
        exit: wait(client),
    })
}

/// Hands over the exit; if nobody wants it any more the connection closes, and with it the process ends.
fn wait(mut client: Client) -> oneshot::Receiver<Result<Exit, StartError>> {
    let (mut sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let exit = tokio::select! {
            reply = client.receive() => match reply {
                Ok((Reply::Exited { exit, .. }, _)) => Ok(exit),
                Ok((other, _)) => Err(StartError::Shim(format!("unexpected {other:?}"))),
                Err(e) => Err(StartError::Shim(e.to_string())),
            },
            () = sender.closed() => return,
        };
        if sender.send(exit).is_err() {
            tracing::debug!("nobody waits for the exit of an exec");
        }
    });
    receiver
}

async fn with_terminal(mut client: Client, request: Request, stdin: bool) -> Result<ExecSession, StartError> {
    let fd = ask(&mut client, request, &[]).await?.into_iter().next().ok_or_else(|| StartError::Shim("no terminal came".into()))?;
    let flags = OFlag::from_bits_truncate(nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFL).map_err(io::Error::from)?);
    nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
    // SAFETY: an OwnedFd gives the same descriptor for as long as it lives, and does not close it before.
    let terminal = Arc::new(unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)?);
    let output = pipe()?;
    tokio::spawn(copy_out(terminal.clone(), Sender::from_owned_fd(output.write)?));
    let mut ours = None;
    if stdin {
        let input = pipe()?;
        tokio::spawn(copy_in(Receiver::from_owned_fd(input.read)?, terminal.clone()));
        ours = Some(tokio::fs::File::from_std(input.write.into()));
    }
    let (resize, sizes) = mpsc::channel(MAX_RESIZES);
    tokio::spawn(resize_to(terminal, sizes));
    Ok(ExecSession { stdin: ours, stdout: Receiver::from_owned_fd(output.read)?, stderr: None, resize, exit: wait(client) })
}

/// Ends with EIO, which is how a terminal says that its last user is gone.
async fn copy_out(terminal: Arc<AsyncFd<OwnedFd>>, mut to: Sender) {
    let mut chunk = [0; 16 << 10];
    loop {
        let read = async {
            loop {
                let mut ready = terminal.readable().await?;
                if let Ok(done) = ready.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), &mut chunk)?)) {
                    return done;
                }
            }
        };
        match read.await {
            Ok(length) if length > 0 && to.write_all(&chunk[..length]).await.is_ok() => {}
            _ => return,
        }
    }
}

async fn copy_in(mut from: Receiver, terminal: Arc<AsyncFd<OwnedFd>>) {
    let mut chunk = [0; 4096];
    while let Ok(length) = from.read(&mut chunk).await {
        let mut rest = &chunk[..length];
        if rest.is_empty() {
            return;
        }
        while !rest.is_empty() {
            let Ok(mut ready) = terminal.writable().await else { return };
            match ready.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), rest)?)) {
                Ok(Ok(written)) => rest = &rest[written..],
                Ok(Err(_)) => return,
                Err(_) => {}
            }
        }
    }
}

async fn resize_to(terminal: Arc<AsyncFd<OwnedFd>>, mut sizes: mpsc::Receiver<(u16, u16)>) {
    while let Some((columns, rows)) = sizes.recv().await {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open and the size outlives the call.
        if unsafe { libc::ioctl(terminal.get_ref().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } < 0 {
            tracing::debug!("resize: {}", io::Error::last_os_error());
        }
    }
}
