//! What members say to each other: a greeting, then calls with answers, or a stream of entries, or a snapshot. Every message
//! is one frame (32-bit length, then a record of `codec`).

use super::{Reply, Types, Vote};
use crate::cluster::Member;
use crate::error::StoreError;
use crate::transport::Connection;
use bytes::Bytes;
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse};
use openraft::type_config::alias::SnapshotMetaOf;
use serde::{Deserialize, Serialize};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// Version of this protocol.
pub const VERSION: u32 = 2;
/// Bytes of the largest frame: a few entries, each of about a megabyte.
const FRAME: usize = 16 << 20;
/// Bytes that a writer gathers before it waits for the connection.
const BACKLOG: usize = 256 << 10;

pub type Frames = Framed<Connection, LengthDelimitedCodec>;

pub fn frames(connection: Connection) -> Frames {
    let codec = LengthDelimitedCodec::builder().little_endian().max_frame_length(FRAME).new_codec();
    let mut frames = Framed::with_capacity(connection, codec, 64 << 10);
    frames.set_backpressure_boundary(BACKLOG);
    frames
}

/// The first frame of whoever opens a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    pub cluster: u64,
    pub purpose: Purpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Numbered calls, answered in any order.
    Calls,
    /// Entries for this member, answered in order.
    Append { to: u64 },
    /// One snapshot for this member.
    Snapshot { to: u64 },
}

/// The first frame back: None, or why not.
pub type Welcome = Option<String>;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Call {
    /// What do you know of the group?
    Place,
    /// I am the member of this name, in this data directory; and of this id, if I know it: another of my name may have come.
    Join {
        name: String,
        id: Option<u64>,
        instance: u64,
    },
    /// What counts as this member's word must not be another's, who lives at its address now.
    PreVote {
        to: u64,
        request: VoteRequest<Types>,
    },
    Vote {
        to: u64,
        request: VoteRequest<Types>,
    },
    Transfer {
        to: u64,
        request: TransferLeaderRequest<Types>,
    },
    ReadIndex,
    /// Encoded commands.
    Propose(Vec<Bytes>),
    KeepAlive(i64),
    TimeToLive(i64),
    Change(Change),
    MoveLeader(u64),
    /// I am this member, in this data directory, and cannot read it any more.
    Exchange {
        name: String,
        id: u64,
        instance: u64,
    },
}

/// A change of the membership.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Change {
    Add {
        name: String,
        peer_addresses: Vec<String>,
        learner: bool,
    },
    Remove(u64),
    Promote(u64),
    /// None: as it is.
    Update {
        id: u64,
        peer_addresses: Option<Vec<String>>,
        client_addresses: Option<Vec<String>>,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    Place(Place),
    Joined(u64),
    Vote(VoteResponse<Types>),
    Transfer(TransferLeaderResponse<Types>),
    /// What has to be applied before a read.
    Index(u64),
    /// Carried out by the entry of this index.
    Done {
        index: u64,
        reply: Reply,
    },
    /// Seconds granted and seconds left.
    Lease(i64, i64),
    Changed(Option<Member>),
    /// There is a new place in the old one's stead.
    Exchanged,
    /// Nothing has been done.
    Failed(StoreError),
}

/// How far a member is in becoming one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// It has nothing, and waits for the others.
    Empty,
    /// It has the founding membership, and no leader has been elected yet, as far as it knows.
    Founding,
    /// There is a group.
    Formed,
}

/// What goes before a snapshot's bytes. An empty frame ends them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotHead {
    pub vote: Vote,
    pub meta: SnapshotMetaOf<Types>,
}

/// What answers a snapshot: the vote of whoever took it, or why it was not taken.
pub type SnapshotTaken = Result<Vote, String>;
