//! openraft's way to the other members. Whoever cannot be reached is an error, never consent (openraft's default would grant
//! a pre-vote).

use super::link::{CallError, Dialer, Link};
use super::snapshot_stream;
use super::wire::{Answer, Call, Frames, Purpose};
use super::{Info, LogId, Types, Vote, state_machine::SnapshotData};
use crate::codec;
use futures::{FutureExt, SinkExt, Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2, type_config::alias::SnapshotOf};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How long entries may be without an answer before the connection is given up: longer than a slow disk takes.
const APPEND: Duration = Duration::from_secs(3);
/// How long a vote, or the word to take over, may be without an answer.
const VOTE: Duration = Duration::from_secs(1);
/// Messages with entries that may be on their way to one member.
const IN_FLIGHT: usize = 16;

/// No transport leads to this member.
#[derive(Clone, Debug, Error)]
#[error("no way to the member at {0:?}")]
pub struct NoWay(String);

/// The ways to all other members. A group of one has none.
pub struct Peers {
    dialer: Option<Arc<Dialer>>,
    links: Mutex<BTreeMap<String, Arc<Link>>>,
}

impl Peers {
    pub fn new(dialer: Option<Arc<Dialer>>) -> Arc<Self> {
        Arc::new(Self { dialer, links: Mutex::default() })
    }

    /// Whether there is no way to anybody.
    pub fn is_alone(&self) -> bool {
        self.dialer.is_none()
    }

    /// Calls the member at `address`.
    ///
    /// # Errors
    /// See `CallError`.
    pub async fn call(&self, address: &str, call: &Call, within: Duration) -> Result<Answer, CallError> {
        let Some(dialer) = &self.dialer else { return Err(CallError::NotSent(NoWay(address.to_owned()).to_string())) };
        let link = {
            let mut links = self.links.lock();
            match links.get(address) {
                Some(link) => link.clone(),
                None => {
                    let link = Arc::new(Link::new(dialer.clone(), address.to_owned()));
                    links.insert(address.to_owned(), link.clone());
                    link
                }
            }
        };
        link.call(call, within).await
    }
}

#[derive(Clone)]
pub struct Network(pub Arc<Peers>);

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, info: &Info) -> Peer {
        Peer { target, peers: self.0.clone(), address: info.address().to_owned(), appends: Arc::default() }
    }
}

/// One use of a way to a member.
pub struct Peer {
    target: u64,
    peers: Arc<Peers>,
    address: String,
    /// The connection for entries, while no stream uses it.
    appends: Arc<Mutex<Option<Frames>>>,
}

impl Peer {
    async fn vote_call(&self, call: Call) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.peers.call(&self.address, &call, VOTE).await {
            Ok(Answer::Vote(response)) => Ok(response),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(RPCError::Unreachable(Unreachable::new(&error))),
        }
    }

    async fn append_connection(&self) -> Result<Frames, RPCError<Types>> {
        if let Some(connection) = self.appends.lock().take() {
            return Ok(connection);
        }
        let Some(dialer) = &self.peers.dialer else {
            return Err(RPCError::Unreachable(Unreachable::new(&NoWay(self.address.clone()))));
        };
        dialer
            .dial(&self.address, Purpose::Append { to: self.target })
            .await
            .map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }
}

fn unexpected(answer: &Answer) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&io::Error::other(format!("an answer to another question: {answer:?}"))))
}

fn network_error(error: &io::Error) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(error))
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let mut connection = self.append_connection().await?;
        let asked = async {
            connection.send(codec::encode(&rpc)?).await?;
            let frame = connection.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
            codec::decode::<StreamAppendResult<Types>>(&frame).map_err(io::Error::from)
        };
        let result = tokio::time::timeout(APPEND, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let result = result.map_err(|error| network_error(&error))?;
        if result.is_ok() {
            *self.appends.lock() = Some(connection);
        }
        Ok(result.into())
    }

    /// Sends entries without waiting for the answers to those before.
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        async move {
            // openraft spaces its attempts by when the first request comes: to dial before would be to dial without a pause.
            let Some(first) = input.next().await else { return Ok(futures::stream::empty().boxed() as BoxStream<'s, _>) };
            let connection = self.append_connection().await?;
            let input = futures::stream::iter([first]).chain(input).fuse();
            let appending = Appending { connection, input, in_flight: VecDeque::new(), ended: false, home: self.appends.clone() };
            let answers = futures::stream::unfold(Some(appending), |appending| async move { appending?.next().await });
            Ok(answers.boxed() as BoxStream<'s, _>)
        }
        .boxed()
    }

    async fn vote(&mut self, rpc: VoteRequest<Types>, _option: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.vote_call(Call::Vote { to: self.target, request: rpc }).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<Types>, _option: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.vote_call(Call::PreVote { to: self.target, request: rpc }).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let Some(dialer) = &self.peers.dialer else {
            return Err(StreamingError::Unreachable(Unreachable::new(&NoWay(self.address.clone()))));
        };
        tokio::select! {
            sent = snapshot_stream::send(dialer, &self.address, self.target, vote, snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        match self.peers.call(&self.address, &Call::Transfer { to: self.target, request }, VOTE).await {
            Ok(Answer::Transfer(response)) => Ok(response),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(RPCError::Unreachable(Unreachable::new(&error))),
        }
    }
}

/// A stream of entries on its way.
struct Appending<S> {
    connection: Frames,
    input: futures::stream::Fuse<S>,
    /// Of each request without an answer, in order: the last entry that the other side has if it says yes.
    in_flight: VecDeque<Option<LogId>>,
    ended: bool,
    /// Where the connection goes once every answer is in.
    home: Arc<Mutex<Option<Frames>>>,
}

type AppendItem<S> = (Result<StreamAppendResult<Types>, RPCError<Types>>, Option<Appending<S>>);

impl<S: Stream<Item = AppendEntriesRequest<Types>> + Unpin> Appending<S> {
    /// The next answer; None: all have been given.
    async fn next(mut self) -> Option<AppendItem<S>> {
        match self.answer().await {
            Ok(Some(Ok(matched))) => Some((Ok(Ok(matched)), Some(self))),
            // After a refusal the other side has ended its stream too.
            Ok(Some(Err(refused))) => Some((Ok(Err(refused)), None)),
            Ok(None) => {
                *self.home.lock() = Some(self.connection);
                None
            }
            Err(error) => Some((Err(network_error(&error)), None)),
        }
    }

    /// openraft takes a yes for an answer to every request up to the entry that it names, and what they were sent for: that
    /// this member leads still. One that a later request without entries would be taken for answered by, too, is passed
    /// over: the answer to that one says the same.
    async fn answer(&mut self) -> io::Result<Option<StreamAppendResult<Types>>> {
        loop {
            if self.ended && self.in_flight.is_empty() {
                return Ok(None);
            }
            let may_send = !self.ended && self.in_flight.len() < IN_FLIGHT;
            tokio::select! {
                biased;
                request = self.input.next(), if may_send => match request {
                    Some(request) => {
                        self.in_flight.push_back(request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id));
                        tokio::time::timeout(APPEND, self.connection.send(codec::encode(&request)?)).await??;
                    }
                    None => self.ended = true,
                },
                frame = self.connection.next(), if !self.in_flight.is_empty() => {
                    let frame = frame.ok_or(io::ErrorKind::UnexpectedEof)??;
                    self.in_flight.pop_front();
                    let result = codec::decode::<StreamAppendResult<Types>>(&frame)?;
                    let repeated = result.as_ref().is_ok_and(|matched| self.in_flight.front().is_some_and(|last| last <= matched));
                    if !repeated {
                        return Ok(Some(result));
                    }
                }
                () = tokio::time::sleep(APPEND), if !self.in_flight.is_empty() => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}
