//! The members' door: what other members ask of this one.

use super::node::Node;
use super::wire::{Answer, Call, Frames, Hello, Place, Purpose, SnapshotTaken, VERSION, Welcome, frames};
use super::{Types, snapshot_stream, state_machine::offered};
use crate::codec;
use crate::disk::{Disk, remove_if_there};
use crate::error::StoreError;
use crate::transport::{Connection, Transport};
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::ready;
use futures::stream::SplitSink;
use futures::{SinkExt, StreamExt};
use openraft::raft::AppendEntriesRequest;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};

/// Connections served at a time.
const CONNECTIONS: usize = 128;
/// Calls of one connection that are being answered.
const CALLS: usize = 512;
/// How long the first frame may take.
const GREETING: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted, as when there are no file descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// What stands behind the door.
#[derive(Clone)]
pub enum Phase {
    /// This member does not know yet whose it is.
    Founding(Place),
    Running(Node),
}

pub struct Door {
    pub transport: Arc<dyn Transport>,
    pub cluster: u64,
    /// Where snapshots are received.
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub phase: watch::Receiver<Phase>,
}

impl Door {
    /// Opens to whoever comes, until `stop`.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let door = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = door.transport.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok(connection) => {
                    let Ok(place) = places.clone().try_acquire_owned() else {
                        tracing::warn!("too many connections of members: one is turned away");
                        continue;
                    };
                    let (door, mut stop) = (door.clone(), stop.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            ended = door.converse(connection) => if let Err(error) = ended {
                                tracing::debug!(%error, "a member's connection ended");
                            },
                            _ = stop.wait_for(|stop| *stop) => {}
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a member's connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    async fn converse(&self, connection: Connection) -> io::Result<()> {
        let mut connection = frames(connection);
        let hello = async { connection.next().await.ok_or(io::ErrorKind::UnexpectedEof)? };
        let hello = tokio::time::timeout(GREETING, hello).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let hello: Hello = codec::decode(&hello)?;
        let refused = self.refuses(&hello);
        let welcome: Welcome = refused.clone();
        connection.send(codec::encode(&welcome)?).await?;
        if let Some(why) = refused {
            tracing::warn!(why, "a member is turned away");
            return Ok(());
        }
        match hello.purpose {
            Purpose::Calls => self.calls(connection).await,
            Purpose::Append { .. } => self.append(connection).await,
            Purpose::Snapshot { .. } => self.snapshot(connection).await,
        }
    }

    fn refuses(&self, hello: &Hello) -> Option<String> {
        if hello.version != VERSION {
            return Some(format!("protocol version {}, this member speaks {VERSION}", hello.version));
        }
        if hello.cluster != self.cluster {
            return Some(format!(
                "cluster {:016x}, this member belongs to {:016x}: they have different cluster keys",
                hello.cluster, self.cluster
            ));
        }
        match (hello.purpose, self.node()) {
            (Purpose::Append { to } | Purpose::Snapshot { to }, Some(node)) if to != node.id => {
                Some(format!("member {to:x} is not here, but {:x}", node.id))
            }
            _ => None,
        }
    }

    fn node(&self) -> Option<Node> {
        match &*self.phase.borrow() {
            Phase::Running(node) => Some(node.clone()),
            Phase::Founding(_) => None,
        }
    }

    async fn calls(&self, connection: Frames) -> io::Result<()> {
        let (writer, mut reader) = connection.split();
        let (answers, answered) = mpsc::channel(CALLS);
        let writing = tokio::spawn(write(writer, answered));
        let places = Arc::new(Semaphore::new(CALLS));
        while let Some(frame) = reader.next().await {
            let frame = frame?.freeze();
            let Some((id, payload)) = frame.split_first_chunk::<8>() else { return Err(io::ErrorKind::InvalidData.into()) };
            let call: Call = codec::decode(payload)?;
            let Ok(place) = places.clone().acquire_owned().await else { break };
            let (phase, answers, id) = (self.phase.borrow().clone(), answers.clone(), *id);
            tokio::spawn(async move {
                let answer = answer(phase, call).await;
                let encoded = codec::encode(&answer);
                match encoded {
                    Ok(payload) => {
                        let mut frame = BytesMut::with_capacity(8 + payload.len());
                        frame.put_slice(&id);
                        frame.put(payload);
                        // The connection may have ended meanwhile.
                        let _ = answers.send(frame.freeze()).await;
                    }
                    Err(error) => tracing::error!(%error, "an answer to a member does not encode"),
                }
                drop(place);
            });
        }
        drop(answers);
        writing.abort();
        Ok(())
    }

    async fn append(&self, connection: Frames) -> io::Result<()> {
        let Some(node) = self.node() else { return Err(io::ErrorKind::NotConnected.into()) };
        let (mut writer, reader) = connection.split();
        // A frame that cannot be read ends the stream, and with it the connection.
        let entries = reader
            .map(|frame| codec::decode::<AppendEntriesRequest<Types>>(&frame.ok()?).ok())
            .take_while(|read| ready(read.is_some()))
            .filter_map(ready);
        let mut results = std::pin::pin!(node.stream_append(entries));
        while let Some(result) = results.next().await {
            let result = result.map_err(io::Error::other)?;
            writer.send(codec::encode(&result)?).await?;
        }
        Ok(())
    }

    async fn snapshot(&self, mut connection: Frames) -> io::Result<()> {
        let Some(node) = self.node() else { return Err(io::ErrorKind::NotConnected.into()) };
        // One at a time: a second leader's may come while the first one's is still on its way.
        let path = self.dir.join(format!("snapshot.{:x}", super::member::new_id()));
        let taken: SnapshotTaken = match snapshot_stream::receive(&mut connection, self.disk.clone(), &path).await {
            Ok((head, image)) => {
                let snapshot = offered(image)?;
                if snapshot.meta == head.meta {
                    node.install(head.vote, snapshot).await.map_err(|error| error.to_string())
                } else {
                    Err("the snapshot is not what was announced".into())
                }
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = remove_if_there(&*self.disk, &path) {
            tracing::warn!(%error, path = %path.display(), "a received snapshot cannot be removed");
        }
        if let Err(why) = &taken {
            tracing::warn!(why, "a snapshot of the leader was not taken");
        }
        connection.send(codec::encode(&taken)?).await
    }
}

/// Writes answers, several at a time where they come so.
async fn write(mut writer: SplitSink<Frames, Bytes>, mut answers: mpsc::Receiver<Bytes>) {
    while let Some(answer) = answers.recv().await {
        let mut next = Some(answer);
        while let Some(answer) = next.take() {
            if writer.feed(answer).await.is_err() {
                return;
            }
            next = answers.try_recv().ok();
        }
        if writer.flush().await.is_err() {
            return;
        }
    }
}

async fn answer(phase: Phase, call: Call) -> Answer {
    match (phase, call) {
        (Phase::Founding(place), Call::Place) => Answer::Place(place),
        (Phase::Founding(_), _) => Answer::Failed(StoreError::NoLeader),
        (Phase::Running(node), call) => node.answer(call).await.unwrap_or_else(Answer::Failed),
    }
}
