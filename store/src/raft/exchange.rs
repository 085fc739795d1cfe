//! Another place for a member that has lost its data, in exchange for its own: as if somebody removed it and added it anew.

use super::link::Dialer;
use super::member::{Info, new_id};
use super::network::Peers;
use super::node::Node;
use super::wire::{Answer, Call};
use crate::cluster::Group;
use crate::dir::Identity;
use crate::error::StoreError;
use openraft::ChangeMembers;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long one of the others may take, how long all of them may be without a leader, and the pause between attempts.
const ASK: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(200);

/// Has the others give up this member's place and make a new one of the same name, for which any directory may come forward.
///
/// # Errors
/// They refuse, or do not answer in time; the text says why.
pub async fn exchange(group: &Group, identity: Identity) -> Result<(), String> {
    let peers = Peers::new(Some(Arc::new(Dialer { transport: group.transport.clone(), cluster: group.cluster })));
    let call = Call::Exchange { name: group.name.clone(), id: identity.id, instance: identity.instance };
    let deadline = Instant::now() + PATIENCE;
    let mut last = "there are no other members".to_owned();
    while Instant::now() < deadline {
        for (_, address) in group.peers.iter().filter(|(name, _)| *name != group.name) {
            match peers.call(address, &call, ASK).await {
                Ok(Answer::Exchanged) => return Ok(()),
                Ok(Answer::Failed(StoreError::MemberRefused(why))) => return Err(why),
                Ok(other) => last = format!("{address} answers {other:?}"),
                Err(error) => last = format!("{address}: {error}"),
            }
        }
        tokio::time::sleep(RETRY).await;
    }
    Err(last)
}

impl Node {
    /// Gives a member another place; on the leader alone. Asked again, it goes on where it was left.
    pub(super) async fn exchange_here(&self, name: &str, id: u64, instance: u64) -> Result<(), StoreError> {
        let place = |membership: &super::Membership| {
            let free = membership.nodes().any(|(_, info)| info.name == name && info.instance == 0);
            match membership.get_node(&id) {
                Some(info) if info.name == name && info.instance == instance && !free => {
                    // Whoever votes gets its vote back; a learner stays one.
                    let votes = membership.voter_ids().any(|voter| voter == id);
                    let info = Info { instance: 0, wants_vote: info.wants_vote || votes, ..info.clone() };
                    Ok((Some(ChangeMembers::AddNodes(BTreeMap::from([(new_id(), info)]))), ()))
                }
                Some(info) if info.name == name && info.instance == instance => Ok((None, ())),
                // Its own place is gone already.
                None if free => Ok((None, ())),
                _ => Err(StoreError::MemberRefused(format!("no member {name:?} with this data directory belongs to the group"))),
            }
        };
        self.decide(place).await?;
        match self.remove(id).await {
            Err(StoreError::MemberNotFound) => Ok(()),
            removed => removed,
        }
    }
}
