//! How many files this process may have open: as many as it is allowed, since each client is one. A shell's usual 1,024 would
//! be used up by a thousand watchers. Containers get the usual limit back from their shim.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to the hard one.
///
/// # Errors
/// The system refuses.
pub fn raise_limit() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}
