//! What a workload talks to: a store in this process, one in a child process over a socket, or a simulated one.
//!
//! The protocol between the two is the plainest: frames of a length and a bincode record, one question at a time on a
//! connection; a watch takes a connection for itself.

use crate::history::{Answer, Request, Seen};
use crate::simulation::slot::{Slot, SlotWatch};
use bytes::Bytes;
use orchd_store::{KeyRange, KeyValue, Revision, Store, StoreError, WatchBatch, WatchEvent, Watcher};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Bytes of a frame that is believed.
const FRAME: u32 = 64 << 20;
/// Revisions between two bookmarks.
const BOOKMARK: Revision = 8;

#[derive(Serialize, Deserialize)]
enum Ask {
    Call(Request),
    Watch {
        range: KeyRange,
        start: Revision,
    },
    Close,
    /// Does this member lead?
    Leads,
}

#[derive(Serialize, Deserialize)]
enum Tell {
    Answered(Result<Answer, StoreError>),
    /// The watch stands; the store's revision just after.
    Opened(Revision),
    Batch(Revision, Vec<Event>),
    Bookmark(Revision),
    Ended(StoreError),
    Leads(bool),
}

/// A watch's event in a form that travels. No key-value: a deletion.
#[derive(Serialize, Deserialize)]
struct Event {
    key: Bytes,
    kv: Option<KeyValue>,
    prev: Option<KeyValue>,
}

async fn send<T: Serialize>(stream: &mut UnixStream, record: &T) -> io::Result<()> {
    let bytes = bincode::serde::encode_to_vec(record, bincode::config::standard()).map_err(io::Error::other)?;
    let mut frame = (bytes.len() as u32).to_le_bytes().to_vec();
    frame.extend_from_slice(&bytes);
    stream.write_all(&frame).await
}

async fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let len = stream.read_u32_le().await?;
    if len > FRAME {
        return Err(io::Error::other("a frame of impossible length"));
    }
    let mut bytes = vec![0; len as usize];
    stream.read_exact(&mut bytes).await?;
    let (record, _) = bincode::serde::decode_from_slice(&bytes, bincode::config::standard()).map_err(io::Error::other)?;
    Ok(record)
}

/// Carries a request out on a store.
pub async fn carry_out(store: &Store, request: Request) -> Result<Answer, StoreError> {
    match request {
        Request::Txn(txn) => store.txn(txn).await.map(Answer::Txn),
        Request::Range(request) => store.range(request).await.map(Answer::Range),
        Request::RangeLocal(request) => store.range_local(&request).map(Answer::Range),
        Request::Compact(revision) => store.compact(revision).await.map(|()| Answer::Done),
        Request::LeaseGrant { id, ttl_s } => store.lease_grant(id, ttl_s).await.map(|_| Answer::Done),
        Request::LeaseKeepAlive { id } => store.lease_keep_alive(id).await.map(|_| Answer::Done),
        Request::LeaseRevoke { id } => store.lease_revoke(id).await.map(|()| Answer::Done),
    }
}

/// The child's part: serves until it is killed.
pub async fn serve(store: Store, listener: UnixListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve_one(store.clone(), stream));
    }
}

async fn serve_one(store: Store, mut stream: UnixStream) -> io::Result<()> {
    loop {
        match receive(&mut stream).await? {
            Ask::Call(request) => {
                let answer = carry_out(&store, request).await;
                send(&mut stream, &Tell::Answered(answer)).await?;
            }
            Ask::Close => {
                let closing = store.clone();
                tokio::spawn(async move { closing.close().await });
            }
            Ask::Leads => send(&mut stream, &Tell::Leads(store.leads_in().is_some())).await?,
            Ask::Watch { range, start } => match store.watch(range, start) {
                Ok(watcher) => return serve_watch(&store, watcher, stream).await,
                Err(error) => send(&mut stream, &Tell::Ended(error)).await?,
            },
        }
    }
}

async fn serve_watch(store: &Store, watcher: Watcher, mut stream: UnixStream) -> io::Result<()> {
    send(&mut stream, &Tell::Opened(store.revision())).await?;
    let mut live = Live::new(watcher);
    loop {
        match live.next().await {
            Ok(Seen::Batch(batch)) => {
                let events = batch.events.iter().map(|event| match event.clone() {
                    WatchEvent::Put { kv, prev } => Event { key: kv.key.clone(), kv: Some(kv), prev },
                    WatchEvent::Delete { key, prev, .. } => Event { key, kv: None, prev },
                });
                send(&mut stream, &Tell::Batch(batch.revision, events.collect())).await?;
            }
            Ok(Seen::Bookmark(revision)) => send(&mut stream, &Tell::Bookmark(revision)).await?,
            Err(error) => return send(&mut stream, &Tell::Ended(error)).await,
        }
    }
}

/// A watcher that asks now and then how far it has come.
pub struct Live {
    watcher: Watcher,
    dispatched: tokio::sync::watch::Receiver<Revision>,
    marked: Revision,
}

impl Live {
    pub fn new(watcher: Watcher) -> Self {
        Self { dispatched: watcher.dispatched(), watcher, marked: 0 }
    }

    pub async fn next(&mut self) -> Result<Seen, StoreError> {
        loop {
            if let Some(revision) = self.watcher.synced().filter(|revision| *revision >= self.marked + BOOKMARK) {
                self.marked = revision;
                return Ok(Seen::Bookmark(revision));
            }
            tokio::select! {
                batch = self.watcher.next() => return batch.map(Seen::Batch),
                changed = self.dispatched.changed() => changed.map_err(|_| StoreError::Closed)?,
            }
        }
    }
}

/// Where a store is to be had.
#[derive(Clone)]
pub enum Target {
    Here(Store),
    Socket(PathBuf),
    Simulated(Slot),
}

impl Target {
    /// A way to it, for one client. None: nobody is there.
    pub async fn connect(&self) -> Option<Connection> {
        match self {
            Self::Here(store) => Some(Connection::Here(store.clone())),
            Self::Socket(path) => connected(path).await.map(Connection::Socket),
            Self::Simulated(slot) => Some(Connection::Simulated(slot.clone())),
        }
    }

    /// Asks it to close, and does not wait until it has.
    pub async fn close(&self) {
        match self {
            Self::Here(store) => store.close().await,
            Self::Simulated(slot) => {
                if let Some(store) = slot.store() {
                    store.close().await;
                }
            }
            Self::Socket(path) => {
                if let Some(mut stream) = connected(path).await {
                    // One that is gone already is closed too.
                    let _ = send(&mut stream, &Ask::Close).await;
                }
            }
        }
    }

    /// Whether it leads, as far as it knows.
    pub async fn leads(&self) -> bool {
        match self {
            Self::Here(store) => store.leads_in().is_some(),
            Self::Simulated(slot) => slot.store().is_some_and(|store| store.leads_in().is_some()),
            Self::Socket(path) => {
                let Some(mut stream) = connected(path).await else { return false };
                send(&mut stream, &Ask::Leads).await.is_ok() && matches!(receive(&mut stream).await, Ok(Tell::Leads(true)))
            }
        }
    }

    /// A watch, and the revision just after it was opened. None: nobody is there.
    pub async fn watch(&self, range: KeyRange, start: Revision) -> Option<Result<(Watching, Revision), StoreError>> {
        match self {
            Self::Here(store) => Some(store.watch(range, start).map(|watcher| (Watching::Here(Live::new(watcher)), store.revision()))),
            Self::Simulated(slot) => {
                slot.watch(range, start).map(|opened| opened.map(|(watch, revision)| (Watching::Simulated(watch), revision)))
            }
            Self::Socket(path) => {
                let mut stream = connected(path).await?;
                send(&mut stream, &Ask::Watch { range, start }).await.ok()?;
                match receive(&mut stream).await.ok()? {
                    Tell::Opened(revision) => Some(Ok((Watching::Socket(stream), revision))),
                    Tell::Ended(error) => Some(Err(error)),
                    _ => None,
                }
            }
        }
    }
}

async fn connected(path: &Path) -> Option<UnixStream> {
    UnixStream::connect(path).await.ok()
}

pub enum Connection {
    Here(Store),
    Socket(UnixStream),
    Simulated(Slot),
}

impl Connection {
    /// # Errors
    /// The store's; `Closed` if the way is cut.
    pub async fn call(&mut self, request: Request) -> Result<Answer, StoreError> {
        match self {
            Self::Here(store) => carry_out(store, request).await,
            Self::Simulated(slot) => slot.call(request).await,
            Self::Socket(stream) => {
                let told = async {
                    send(stream, &Ask::Call(request)).await?;
                    receive(stream).await
                };
                match told.await {
                    Ok(Tell::Answered(answer)) => answer,
                    Ok(_) | Err(_) => Err(StoreError::Closed),
                }
            }
        }
    }
}

pub enum Watching {
    Here(Live),
    Socket(UnixStream),
    Simulated(SlotWatch),
}

impl Watching {
    /// # Errors
    /// The watch's; `Closed` if the way is cut.
    pub async fn next(&mut self) -> Result<Seen, StoreError> {
        match self {
            Self::Here(live) => live.next().await,
            Self::Simulated(watch) => watch.next().await,
            Self::Socket(stream) => match receive(stream).await {
                Ok(Tell::Batch(revision, events)) => {
                    let events = events.into_iter().map(|event| match event.kv {
                        Some(kv) => WatchEvent::Put { kv, prev: event.prev },
                        None => WatchEvent::Delete { key: event.key, mod_revision: revision, prev: event.prev },
                    });
                    Ok(Seen::Batch(WatchBatch { revision, events: events.collect() }))
                }
                Ok(Tell::Bookmark(revision)) => Ok(Seen::Bookmark(revision)),
                Ok(Tell::Ended(error)) => Err(error),
                Ok(Tell::Answered(_) | Tell::Opened(_) | Tell::Leads(_)) | Err(_) => Err(StoreError::Closed),
            },
        }
    }
}
