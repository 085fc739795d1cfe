//! Snapshots on their way to a member that has fallen too far behind: the file, in chunks, in bounded memory.

use super::link::Dialer;
use super::wire::{Frames, Purpose, SnapshotHead, SnapshotTaken};
use super::{Types, Vote, state_machine::SnapshotData};
use crate::codec;
use crate::disk::{Disk, Open};
use crate::snapshot::Image;
use crate::work::blocking;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use openraft::type_config::alias::SnapshotOf;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const CHUNK: usize = 256 << 10;
/// How long a chunk may take to be taken, and how long the whole may take to be installed.
const CHUNK_WAIT: Duration = Duration::from_secs(10);
const INSTALL_WAIT: Duration = Duration::from_secs(300);

async fn within<T>(wait: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(wait, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Sends the snapshot; returns the vote of whoever took it.
///
/// # Errors
/// No way, or it was not taken.
pub async fn send(dialer: &Dialer, address: &str, to: u64, vote: Vote, snapshot: SnapshotOf<Types, SnapshotData>) -> io::Result<Vote> {
    // Opened first: the file's name may go to a newer snapshot meanwhile.
    let file = snapshot.snapshot.file()?;
    let mut connection = dialer.dial(address, Purpose::Snapshot { to }).await?;
    let head = SnapshotHead { vote, meta: snapshot.meta };
    connection.feed(codec::encode(&head)?).await?;
    let mut sent = 0;
    loop {
        let file = file.clone();
        let read = blocking(move || {
            let mut chunk = vec![0; CHUNK];
            file.read_at(&mut chunk, sent).map(|read| {
                chunk.truncate(read);
                chunk
            })
        });
        let chunk = read.await??;
        let len = chunk.len();
        within(CHUNK_WAIT, connection.send(Bytes::from(chunk))).await?;
        if len == 0 {
            break;
        }
        sent += len as u64;
    }
    let frame = within(INSTALL_WAIT, async { connection.next().await.ok_or(io::ErrorKind::UnexpectedEof)? }).await?;
    codec::decode::<SnapshotTaken>(&frame)?.map_err(io::Error::other)
}

/// Takes a snapshot's bytes in, into a file beside the current one.
///
/// # Errors
/// They do not come in time, or are no snapshot, or the disk does not take them.
pub async fn receive(connection: &mut Frames, disk: Arc<dyn Disk>, path: &Path) -> io::Result<(SnapshotHead, Arc<Image>)> {
    let mut next = async || within(CHUNK_WAIT, async { connection.next().await.ok_or(io::ErrorKind::UnexpectedEof)? }).await;
    let head: SnapshotHead = codec::decode(&next().await?)?;
    let file = disk.open(path, Open::Create)?;
    let mut taken = 0;
    loop {
        let chunk = Bytes::from(next().await?);
        if chunk.is_empty() {
            break;
        }
        let (file, len) = (file.clone(), chunk.len() as u64);
        blocking(move || file.write_at(&chunk, taken)).await??;
        taken += len;
    }
    blocking(move || file.sync_all()).await??;
    let image = Image::open(disk, path)?.ok_or(io::ErrorKind::NotFound)?;
    Ok((head, Arc::new(image)))
}
