//! The beginning of a group that is made of a snapshot: the place in the log that it stands for stays, its members do not.

use super::member::{Info, new_id};
use super::{LogId, Membership, Types, Vote};
use crate::codec;
use crate::dir::Dir;
use crate::log::{Log, Record};
use crate::state::Applied;
use crate::world::World;
use openraft::RaftTypeConfig;
use openraft::vote::{RaftLeaderId, RaftVote};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

type LeaderId = <Types as RaftTypeConfig>::LeaderId;

/// Makes a new member the only one, gives the directory to it, and has it vote in a term after the snapshot's. Returns what
/// is applied, as the new group sees it.
///
/// # Errors
/// The directory cannot be written; the position does not decode.
pub async fn found(world: &World, dir: &Dir, name: &str, applied: &Applied) -> io::Result<Applied> {
    let log_id: Option<LogId> = applied.log_id.as_deref().map(codec::decode).transpose()?;
    let identity = dir.assign(new_id()).map_err(io::Error::other)?;
    let info = Info { name: name.to_owned(), instance: identity.instance, wants_vote: true, ..Info::default() };
    let members = BTreeMap::from([(identity.id, info)]);
    let alone = openraft::Membership::new(vec![BTreeSet::from([identity.id])], members).map_err(io::Error::other)?;
    let vote = Vote::from_leader_id(LeaderId::new(log_id.map_or(0, |log_id| log_id.leader_id.term) + 1, identity.id), false);
    let log = Log::open(world, &dir.path().join("log")).map_err(io::Error::other)?;
    let written = log.write(vec![Record::Vote(codec::encode(&vote)?)]).await;
    log.close().await;
    written?;
    Ok(Applied { membership: Some(codec::encode(&Membership::new(log_id, alone))?), ..applied.clone() })
}
