//! How an empty member finds its place.
//!
//! It asks the others until it knows one of two things. A group exists: then it comes forward as the member of its name, and
//! is refused if another data directory already has. Or no group can exist, because a majority of the founders, itself
//! included, are as empty as it is: then each of them writes down the same founding membership, and Raft elects.

use super::link::CallError;
use super::member::{Info, founder_id};
use super::network::Peers;
use super::serve::Phase;
use super::wire::{Answer, Call, Place};
use crate::cluster::Group;
use crate::error::{OpenError, StoreError};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

const ASK: Duration = Duration::from_millis(1000);
const RETRY: Duration = Duration::from_millis(100);
/// How often it is told what is being waited for.
const TELL: Duration = Duration::from_secs(10);

/// What an empty member has found.
pub enum Found {
    /// It founds the group, with the others: ids and what is known of them.
    Founder(u64, BTreeMap<u64, Info>),
    /// It belongs to a group as this member.
    Joined(u64),
}

/// The founding membership.
pub fn founders(group: &Group) -> BTreeMap<u64, Info> {
    let info = |name: &String, address: &String| Info {
        name: name.clone(),
        peer_addresses: vec![address.clone()],
        wants_vote: true,
        ..Info::default()
    };
    group.peers.iter().map(|(name, address)| (founder_id(group.cluster, name), info(name, address))).collect()
}

/// Finds this member's place; waits as long as it takes.
///
/// # Errors
/// `Refused`: a group exists, and has no place for this member.
pub async fn find_place(group: &Group, instance: u64, peers: &Peers, phase: &watch::Sender<Phase>) -> Result<Found, OpenError> {
    let founders = founders(group);
    let me = founder_id(group.cluster, &group.name);
    let others: Vec<&str> = group.peers.iter().filter(|(name, _)| *name != group.name).map(|(_, address)| address.as_str()).collect();
    let founder = founders.contains_key(&me);
    let mut told = None;
    loop {
        let places = join_all(others.iter().map(|address| peers.call(address, &Call::Place, ASK))).await;
        let mut empty = usize::from(founder);
        for (address, place) in others.iter().zip(&places) {
            match place {
                Ok(Answer::Place(Place::Formed)) => {
                    if let Some(id) = join(address, group, instance, peers).await? {
                        return Ok(Found::Joined(id));
                    }
                }
                Ok(Answer::Place(Place::Empty | Place::Founding)) => empty += 1,
                _ => {}
            }
        }
        let formed = places.iter().any(|place| matches!(place, Ok(Answer::Place(Place::Formed))));
        if !formed && founder && empty * 2 > founders.len() {
            // From here on it counts as one that may have voted.
            phase.send_replace(Phase::Founding(Place::Founding));
            return Ok(Found::Founder(me, founders));
        }
        if told.is_none_or(|at: Instant| at.elapsed() >= TELL) {
            told = Some(Instant::now());
            tracing::info!(peers = ?places.iter().map(shown).collect::<Vec<_>>(), "waiting for a majority of the masters");
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn shown(place: &Result<Answer, CallError>) -> String {
    match place {
        Ok(Answer::Place(place)) => format!("{place:?}"),
        Ok(_) => "an odd answer".into(),
        Err(error) => error.to_string(),
    }
}

/// Comes forward; None: the group cannot tell now.
async fn join(address: &str, group: &Group, instance: u64, peers: &Peers) -> Result<Option<u64>, OpenError> {
    match peers.call(address, &Call::Join { name: group.name.clone(), id: None, instance }, 5 * ASK).await {
        Ok(Answer::Joined(id)) => Ok(Some(id)),
        Ok(Answer::Failed(StoreError::MemberRefused(why))) => Err(OpenError::Refused(why)),
        Ok(Answer::Failed(error)) => {
            tracing::info!(%error, address, "the group does not answer yet");
            Ok(None)
        }
        Ok(_) | Err(_) => Ok(None),
    }
}
