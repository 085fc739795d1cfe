//! What Raft's membership says of each member, and how the founders' ids come about.

use crate::cluster::Member;
use serde::{Deserialize, Serialize};

/// A member as the membership records it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    pub name: String,
    pub peer_addresses: Vec<String>,
    pub client_addresses: Vec<String>,
    /// Which data directory bears this id; 0: none has come forward yet. A second one is refused, so that a member that lost
    /// its directory can never vote twice.
    pub instance: u64,
    /// It is to vote as soon as it has caught up.
    pub wants_vote: bool,
}

impl Info {
    /// As it is told to others.
    pub fn member(&self, id: u64, learner: bool) -> Member {
        Member {
            id,
            name: self.name.clone(),
            peer_addresses: self.peer_addresses.clone(),
            client_addresses: self.client_addresses.clone(),
            learner,
            started: self.instance != 0,
        }
    }

    /// Where it is reached.
    pub fn address(&self) -> &str {
        self.peer_addresses.first().map_or("", String::as_str)
    }
}

/// The id of a founding member: every founder comes to the same one, without asking.
pub fn founder_id(cluster: u64, name: &str) -> u64 {
    // FNV-1a, then splitmix64's finaliser.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325 ^ cluster, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)).max(1)
}

/// A new id, or instance.
pub fn new_id() -> u64 {
    crate::random::id()
}

#[cfg(test)]
mod tests {
    use super::founder_id;

    #[test]
    fn founders_ids_differ_by_name_and_by_cluster() {
        let ids = [founder_id(1, "m1"), founder_id(1, "m2"), founder_id(2, "m1")];
        assert_eq!(ids[0], founder_id(1, "m1"));
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
    }
}
