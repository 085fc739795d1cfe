//! Seccomp filters: the default profile, profiles from files, compiling and loading.
//!
//! libcontainer without its C library ignores `linux.seccomp`, so this is what stands between a container and all system
//! calls. seccompiler compiles; loading is done here, because seccompiler would set no_new_privs along the way.
//! A seccompiler program has one action for a match, so a profile becomes several programs: the kernel runs all and
//! obeys the strictest answer.

mod default;
mod numbers;
mod profile;

use crate::spec::Seccomp;
use nix::errno::Errno;
use seccompiler::BpfProgram;
use std::io;
use std::sync::Arc;

/// Compiled programs, to be loaded in order.
pub type Filters = Arc<Vec<BpfProgram>>;

/// Compiles what a container asked for. `capabilities` are the bits it holds: the default profile allows more to who holds more.
///
/// # Errors
/// What is wrong with the profile.
pub fn compile(seccomp: &Seccomp, capabilities: u64) -> Result<Filters, String> {
    match seccomp {
        Seccomp::Unconfined => Ok(Arc::default()),
        Seccomp::RuntimeDefault => default::compile(capabilities).map(Arc::new).map_err(|e| format!("the default seccomp profile: {e}")),
        Seccomp::Localhost(path) => {
            let text = std::fs::read(path).map_err(|e| format!("cannot load seccomp profile {:?}: {e}", path.display()))?;
            profile::compile(&text).map(Arc::new).map_err(|e| format!("seccomp profile {:?}: {e}", path.display()))
        }
    }
}

/// Loads programs into the calling thread. Needs CAP_SYS_ADMIN or no_new_privs.
///
/// # Errors
/// The kernel refuses.
pub fn install(filters: &Filters) -> io::Result<()> {
    for program in filters.iter() {
        let length = u16::try_from(program.len()).map_err(io::Error::other)?;
        let prog = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
        // SAFETY: the program is as long as it says and outlives the call; seccompiler's instruction has the kernel's layout.
        let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const prog) };
        Errno::result(done)?;
    }
    Ok(())
}

fn arch() -> Result<seccompiler::TargetArch, String> {
    std::env::consts::ARCH.try_into().map_err(|e: seccompiler::BackendError| e.to_string())
}
