//! The way to the other members. A group of one has none: whoever is asked for is unreachable, which openraft takes as
//! "no answer" and never as consent (its default would grant a pre-vote).

use super::{Types, Vote, state_machine::SnapshotData};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2, type_config::alias::SnapshotOf};
use std::future::Future;
use thiserror::Error;

/// No transport leads to this member.
#[derive(Clone, Debug, Error)]
#[error("no way to member {member:x} at {address:?}")]
pub struct NoWay {
    member: u64,
    address: String,
}

#[derive(Clone, Default)]
pub struct Network;

pub struct Peer(NoWay);

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        Peer(NoWay { member: target, address: node.addr.clone() })
    }
}

impl Peer {
    fn unreachable(&self) -> RPCError<Types> {
        RPCError::Unreachable(Unreachable::new(&self.0))
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Err(self.unreachable())
    }

    async fn vote(&mut self, _rpc: VoteRequest<Types>, _option: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Err(self.unreachable())
    }

    async fn pre_vote(&mut self, _rpc: VoteRequest<Types>, _option: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Err(self.unreachable())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: SnapshotOf<Types, SnapshotData>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(StreamingError::Unreachable(Unreachable::new(&self.0)))
    }

    async fn transfer_leader(
        &mut self,
        _req: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        Err(self.unreachable())
    }
}
