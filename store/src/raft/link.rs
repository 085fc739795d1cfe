//! Calls to another member: many at a time over one connection, which is opened when it is first needed and anew after it
//! broke.

use super::wire::{Answer, Call, Frames, Hello, Purpose, VERSION, Welcome, frames};
use crate::codec;
use crate::transport::Transport;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::SplitStream;
use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot};

/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_secs(2);
/// Calls that may wait to be written.
const QUEUE: usize = 1024;
/// Calls without an answer, above which those nobody waits for are forgotten.
const PENDING: usize = 4096;

/// Opens connections to other members and greets them.
pub struct Dialer {
    pub transport: Arc<dyn Transport>,
    pub cluster: u64,
}

impl Dialer {
    /// # Errors
    /// No way, no answer in time, or the member refuses; the text says why.
    pub async fn dial(&self, address: &str, purpose: Purpose) -> io::Result<Frames> {
        let greeted = async {
            let mut connection = frames(self.transport.connect(address).await?);
            let hello = Hello { version: VERSION, cluster: self.cluster, purpose };
            connection.send(codec::encode(&hello)?).await?;
            let welcome = connection.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
            match codec::decode::<Welcome>(&welcome)? {
                None => Ok(connection),
                Some(why) => Err(io::Error::other(why)),
            }
        };
        tokio::time::timeout(CONNECT, greeted).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, Error)]
pub enum CallError {
    #[error("{0}")]
    NotSent(String),
    /// It may have been carried out.
    #[error("{0}")]
    Unanswered(String),
}

struct Outgoing {
    payload: Bytes,
    answer: oneshot::Sender<Result<Answer, CallError>>,
}

/// A member to call. The connection ends with the last handle.
pub struct Link {
    queue: mpsc::Sender<Outgoing>,
    reset: Arc<Notify>,
}

impl Link {
    pub fn new(dialer: Arc<Dialer>, address: String) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let reset = Arc::new(Notify::new());
        tokio::spawn(run(dialer, address, waiting, reset.clone()));
        Self { queue, reset }
    }

    /// # Errors
    /// See `CallError`. A connection on which a call went unanswered is given up.
    pub async fn call(&self, call: &Call, within: Duration) -> Result<Answer, CallError> {
        let payload = codec::encode(call).map_err(|error| CallError::NotSent(error.to_string()))?;
        let (answer, answered) = oneshot::channel();
        let asked = async {
            let gone = || CallError::NotSent("the way to the member is closed".into());
            self.queue.send(Outgoing { payload, answer }).await.map_err(|_| gone())?;
            answered.await.unwrap_or_else(|_| Err(CallError::Unanswered("the connection broke".into())))
        };
        tokio::time::timeout(within, asked).await.unwrap_or_else(|_| {
            self.reset.notify_one();
            Err(CallError::Unanswered("no answer in time".into()))
        })
    }
}

type Pending = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Result<Answer, CallError>>>>>;

async fn run(dialer: Arc<Dialer>, address: String, mut queue: mpsc::Receiver<Outgoing>, reset: Arc<Notify>) {
    while let Some(first) = queue.recv().await {
        match dialer.dial(&address, Purpose::Calls).await {
            Ok(connection) => converse(connection, first, &mut queue, &reset).await,
            Err(error) => {
                let error = CallError::NotSent(error.to_string());
                // Whoever asked may have stopped waiting.
                let _ = first.answer.send(Err(error.clone()));
                while let Ok(next) = queue.try_recv() {
                    let _ = next.answer.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Uses one connection until it breaks. Reading has a task of its own, so that two members that write at once never wait
/// for each other.
async fn converse(connection: Frames, first: Outgoing, queue: &mut mpsc::Receiver<Outgoing>, reset: &Notify) {
    let (mut writer, reader) = connection.split();
    let pending: Pending = Arc::default();
    let mut reading = tokio::spawn(read(reader, pending.clone()));
    let mut next = Some(first);
    for id in 0.. {
        let outgoing = match next.take().map_or_else(|| queue.try_recv(), Ok) {
            Ok(outgoing) => outgoing,
            Err(_) => {
                let flushed = tokio::select! {
                    flushed = writer.flush() => flushed.is_ok(),
                    () = reset.notified() => false,
                };
                if !flushed {
                    break;
                }
                let waited = tokio::select! {
                    waited = queue.recv() => waited,
                    _ = &mut reading => None,
                    () = reset.notified() => None,
                };
                let Some(outgoing) = waited else { break };
                outgoing
            }
        };
        let mut frame = BytesMut::with_capacity(8 + outgoing.payload.len());
        frame.put_u64_le(id);
        frame.put(outgoing.payload);
        {
            let mut pending = pending.lock();
            if pending.len() >= PENDING {
                pending.retain(|_, answer| !answer.is_closed());
            }
            pending.insert(id, outgoing.answer);
        }
        let fed = tokio::select! {
            fed = writer.feed(frame.freeze()) => fed.is_ok(),
            () = reset.notified() => false,
        };
        if !fed {
            break;
        }
    }
    reading.abort();
    let unanswered = std::mem::take(&mut *pending.lock());
    for answer in unanswered.into_values() {
        // Whoever asked may have stopped waiting.
        let _ = answer.send(Err(CallError::Unanswered("the connection broke".into())));
    }
}

async fn read(mut reader: SplitStream<Frames>, pending: Pending) {
    while let Some(Ok(frame)) = reader.next().await {
        let Some((id, payload)) = frame.split_first_chunk::<8>() else { return };
        let Ok(answer) = codec::decode::<Answer>(payload) else { return };
        if let Some(waiter) = pending.lock().remove(&u64::from_le_bytes(*id)) {
            // As above.
            let _ = waiter.send(Ok(answer));
        }
    }
}
