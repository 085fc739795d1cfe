//! `orchd key new`: a new cluster's CA and secrets, to be copied to every master.

use super::CliError;
use crate::security::ClusterKey;
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum KeyVerb {
    /// Makes a new cluster key; refuses to write over a file that is there.
    New {
        #[arg(long)]
        out: PathBuf,
    },
}

pub fn run(verb: KeyVerb) -> Result<(), CliError> {
    let KeyVerb::New { out } = verb;
    if out.exists() {
        return Err(CliError::text(format!("{} is there already; a cluster that uses it would be lost", out.display())));
    }
    let key = ClusterKey::generate().map_err(|e| CliError::new("cannot make a cluster key", e))?;
    key.save(&out).map_err(|e| CliError::new("cannot write the cluster key", e))
}
