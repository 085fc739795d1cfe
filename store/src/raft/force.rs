//! Going on alone after a quorum has been lost for good: this member takes everything in its log for committed, and writes
//! a membership of itself behind it.

use super::member::Info;
use super::{Entry, LogId, Types, log_store::LogStore};
use crate::cluster::Group;
use crate::codec;
use crate::dir::Identity;
use crate::error::OpenError;
use crate::log::{Log, Record};
use openraft::entry::RaftEntry;
use openraft::storage::RaftLogStorage;
use openraft::vote::{RaftLeaderId, RaftVote};
use openraft::{EntryPayload, Membership, RaftLogReader, RaftTypeConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

type LeaderId = <Types as RaftTypeConfig>::LeaderId;

/// Strikes every other member off. What they had that this member lacks is lost; they must not be started again with the
/// data that they have.
///
/// # Errors
/// The log cannot be read or written.
pub async fn strike_off_others(identity: Identity, group: &Group, log: &Arc<Log>) -> Result<(), OpenError> {
    write(identity, group, log).await.map_err(|error| OpenError::Damaged(format!("cannot go on alone: {error}")))
}

async fn write(identity: Identity, group: &Group, log: &Arc<Log>) -> io::Result<()> {
    let mut store = LogStore::new(log.clone());
    let last = store.get_log_state().await?.last_log_id.ok_or_else(|| io::Error::other("this member has no data"))?;
    let voted = store.read_vote().await?.map_or(0, |vote| vote.leader_id.term);
    let leader = LeaderId::new(voted.max(last.leader_id.term) + 1, identity.id);
    let log_id: LogId = openraft::LogId::new(leader.to_committed(), last.index + 1);
    let info = Info {
        name: group.name.clone(),
        peer_addresses: vec![group.peer_address.clone()],
        client_addresses: group.client_addresses.clone(),
        instance: identity.instance,
        wants_vote: true,
    };
    let alone = Membership::new(vec![BTreeSet::from([identity.id])], BTreeMap::from([(identity.id, info)])).map_err(io::Error::other)?;
    let entry = Entry::new(log_id, EntryPayload::Membership(alone));
    let vote = super::Vote::from_leader_id(leader, true);
    tracing::warn!(index = log_id.index, "every other member is struck off; this one goes on alone");
    log.write(vec![
        Record::Vote(codec::encode(&vote)?),
        Record::Entry { index: log_id.index, payload: codec::encode(&entry)? },
        Record::Committed(codec::encode(&Some(log_id))?),
    ])
    .await
}
