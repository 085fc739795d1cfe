//! What a store is told of its group, and what it tells of it. May import: `transport`.

use crate::transport::Transport;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// How a store takes part in a group of several members.
#[derive(Clone)]
pub struct Group {
    /// This member's name; one of `peers`, unless it was added later.
    pub name: String,
    /// Names and addresses (`host:port`) of the founding members. Counts only while the directory is empty.
    pub peers: Vec<(String, String)>,
    /// Where the others reach this member.
    pub peer_address: String,
    /// URLs where clients reach this member; told to whoever lists the members.
    pub client_addresses: Vec<String>,
    /// Tells this group from all others; the same on every member.
    pub cluster: u64,
    pub transport: Arc<dyn Transport>,
    /// Goes on alone with what this member has: every other member is struck off. For a quorum that is lost for good.
    pub force_new_cluster: bool,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", &self.name).field("peers", &self.peers).finish_non_exhaustive()
    }
}

/// A member of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: u64,
    pub name: String,
    /// `host:port`.
    pub peer_addresses: Vec<String>,
    /// URLs.
    pub client_addresses: Vec<String>,
    /// It does not vote (yet).
    pub learner: bool,
    /// It has been heard of since it became a member.
    pub started: bool,
}

/// How a replica stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub cluster_id: u64,
    pub member_id: u64,
    /// 0: none is known.
    pub leader_id: u64,
    pub term: u64,
    /// Index of the last entry in the log.
    pub log_index: u64,
    pub applied_index: u64,
    pub learner: bool,
    /// Bytes that the store's files take.
    pub db_bytes: u64,
    /// Bytes of keys and values in memory, history included.
    pub db_in_use_bytes: u64,
    /// The most bytes that the files may take; 0: as much as the disk has.
    pub quota_bytes: u64,
    /// Writes that grow the store are refused for want of space.
    pub no_space: bool,
    /// What else is wrong, in words; empty: nothing.
    pub errors: Vec<String>,
}
