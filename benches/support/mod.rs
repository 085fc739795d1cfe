//! What every benchmark shares: figures as they are printed, the peer, and connections that cost the generator little.

#![allow(dead_code, unused_imports, reason = "each benchmark uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "it runs orchd and its peers")]

#[path = "../../tests/support/mod.rs"]
pub mod cluster;
mod connection;
mod figures;
mod peer;

pub use connection::{Connection, Server};
pub use figures::{Rounds, figure, percentile, pss_mib, settle};
pub use peer::Reference;

use std::process::Command;

/// This program, to be run as a load: `--load NAME KUBECONFIG`.
pub fn load(mut command: Command, name: &str, kubeconfig: &std::path::Path) -> Command {
    command.args(["--load", name]).arg(kubeconfig);
    command
}

/// The load's name and server, if this process is one.
pub fn asked() -> Option<(String, Server)> {
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|a| a == "--load")?;
    Some((args[at + 1].clone(), Server::load(std::path::Path::new(&args[at + 2]))))
}
