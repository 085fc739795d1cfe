//! `orchd snapshot`: a copy of everything that the store holds, taken from a running master, looked at, and made a store of.

use super::master::prepare_dir;
use super::member::{connect, refused, table};
use super::{CliError, DEFAULT_DATA_DIR};
use clap::Subcommand;
use orchd_store::etcd::pb::etcdserverpb as pb;
use orchd_store::saved::{self, Summary};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Subcommand)]
pub enum SnapshotVerb {
    /// Writes a snapshot of a running master's store to a file that must not exist.
    Save {
        file: PathBuf,
        #[arg(long, default_value = DEFAULT_DATA_DIR)]
        data_dir: PathBuf,
    },
    /// Makes a data dir of a snapshot: a new cluster of one master, whose further masters join as `orchd member add` lets them.
    Restore {
        file: PathBuf,
        /// The new data dir; no store may be in it.
        #[arg(long)]
        data_dir: PathBuf,
        /// The name of the master, if it is to be one of several.
        #[arg(long, default_value = "default")]
        name: String,
    },
    /// Checks a snapshot, and shows what it holds.
    Status { file: PathBuf },
}

/// # Errors
/// What failed, on what.
pub async fn run(verb: SnapshotVerb) -> Result<(), CliError> {
    match verb {
        SnapshotVerb::Save { file, data_dir } => save(&file, &data_dir).await,
        SnapshotVerb::Restore { file, data_dir, name } => {
            prepare_dir(&data_dir)?;
            let restored = saved::restore(&file, &data_dir.join("store"), &name).await;
            let summary = restored.map_err(|e| CliError::new("cannot restore the snapshot", e))?;
            println!("Snapshot restored to {}: revision {}, {} keys", data_dir.display(), summary.revision, summary.keys);
            Ok(())
        }
        SnapshotVerb::Status { file } => {
            show(&saved::inspect(&file).map_err(|e| CliError::new("cannot use the snapshot", e))?);
            Ok(())
        }
    }
}

async fn save(file: &Path, data_dir: &Path) -> Result<(), CliError> {
    let connection = connect(data_dir).await?;
    let failed = |e| CliError::new(format!("cannot write {}", file.display()), e);
    // A file that is there whole or not at all.
    let half = file.with_added_extension("part");
    if file.exists() {
        return Err(CliError::text(format!("{} is there already", file.display())));
    }
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half).map_err(failed)?;
    let mut pieces = connection.maintenance().snapshot(pb::SnapshotRequest {}).await.map_err(refused("take a snapshot"))?.into_inner();
    while let Some(piece) = pieces.message().await.map_err(refused("take a snapshot"))? {
        out.write_all(&piece.blob).map_err(failed)?;
    }
    out.sync_all().map_err(failed)?;
    std::fs::rename(&half, file).map_err(failed)?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    saved::inspect(file).map_err(|e| CliError::new("the snapshot did not arrive whole", e))?;
    println!("Snapshot saved at {}", file.display());
    Ok(())
}

fn show(summary: &Summary) {
    let row = [format!("{:x}", summary.hash), summary.revision.to_string(), summary.keys.to_string(), format!("{} B", summary.bytes)];
    print!("{}", table(["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE"], [row]));
}
