//! Maintenance: status, alarms, hashes, snapshot, transfer of leadership. May import: `disk`, `error`, `etcd`,
//! `handle`.

use super::pb::etcdserverpb as pb;
use super::status::{Code, INVALID_DOWNGRADE, NOT_LEADER, Status, WRONG_DOWNGRADE_FORMAT};
use super::{Face, VERSION};
use crate::command::Revision;
use crate::disk::Stream as FileStream;
use crate::error::StoreError;
use crate::machine::Hash;
use futures::Stream;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::sync::Arc;

/// Bytes of a snapshot that go out at a time.
const PIECE: usize = 64 << 10;
/// etcd's clients tell by the size of what they got whether a checksum ends it: a multiple of this, and 32.
const PAGE: u64 = 512;

impl Face {
    pub async fn status(&self, _: pb::StatusRequest) -> Result<pb::StatusResponse, Status> {
        let status = self.store.status();
        let mut errors = status.errors;
        if status.leader_id == 0 {
            errors.push("etcdserver: no leader".into());
        }
        if status.no_space {
            errors.push(format!("memberID:{} alarm:NOSPACE ", self.member_id));
        }
        Ok(pb::StatusResponse {
            header: self.header_now(),
            version: VERSION.into(),
            db_size: status.db_bytes as i64,
            leader: status.leader_id,
            raft_index: status.log_index,
            raft_term: status.term,
            raft_applied_index: status.applied_index,
            errors,
            db_size_in_use: status.db_in_use_bytes as i64,
            is_learner: status.learner,
            storage_version: VERSION.into(),
            db_size_quota: status.quota_bytes as i64,
        })
    }

    /// A member raises the alarm for want of space by itself, and calls it off when there is some.
    pub async fn alarm(&self, request: pb::AlarmRequest) -> Result<pb::AlarmResponse, Status> {
        self.needs_voter()?;
        const ACTIVATE: i32 = pb::alarm_request::AlarmAction::Activate as i32;
        if request.action == ACTIVATE {
            return Err(Status::new(Code::Unimplemented, "etcdserver: alarms are raised, and called off, by the members themselves"));
        }
        let wanted = request.alarm == pb::AlarmType::None as i32 || request.alarm == pb::AlarmType::Nospace as i32;
        let full = wanted && self.store.status().no_space;
        let alarm = pb::AlarmMember { member_id: self.member_id, alarm: pb::AlarmType::Nospace as i32 };
        Ok(pb::AlarmResponse { header: self.header_now(), alarms: if full { vec![alarm] } else { Vec::new() } })
    }

    /// There is nothing to do: space is given back while the store works.
    pub async fn defragment(&self, _: pb::DefragmentRequest) -> Result<pb::DefragmentResponse, Status> {
        // etcd gives no header here, nor with a moved leader; its Rust client's tests look.
        Ok(pb::DefragmentResponse { header: None })
    }

    pub async fn hash(&self, _: pb::HashRequest) -> Result<pb::HashResponse, Status> {
        let hash = self.hash_at(0).await?;
        Ok(pb::HashResponse { header: self.header(hash.revision), hash: hash.hash })
    }

    pub async fn hash_kv(&self, request: pb::HashKvRequest) -> Result<pb::HashKvResponse, Status> {
        self.needs_voter()?;
        let hash = self.hash_at(request.revision).await?;
        Ok(pb::HashKvResponse {
            header: self.header_now(),
            hash: hash.hash,
            compact_revision: hash.compacted,
            hash_revision: hash.revision,
        })
    }

    async fn hash_at(&self, revision: Revision) -> Result<Hash, Status> {
        let state = self.store.shared.state.clone();
        let hashed = tokio::task::spawn_blocking(move || state.hash(revision)).await;
        Ok(hashed.map_err(|error| StoreError::Failed(error.to_string()))??)
    }

    pub async fn move_leader(&self, request: pb::MoveLeaderRequest) -> Result<pb::MoveLeaderResponse, Status> {
        self.needs_voter()?;
        if self.store.status().leader_id != self.member_id {
            return Err(NOT_LEADER);
        }
        self.store.move_leader(request.target_id).await?;
        Ok(pb::MoveLeaderResponse { header: None })
    }

    /// Data written by this version is not for an older one.
    pub async fn downgrade(&self, request: pb::DowngradeRequest) -> Result<pb::DowngradeResponse, Status> {
        self.needs_voter()?;
        if request.action == pb::downgrade_request::DowngradeAction::Cancel as i32 {
            return Ok(pb::DowngradeResponse { header: self.header_now(), version: VERSION.into() });
        }
        let mut parts = request.version.split('.');
        let numbers = parts.by_ref().take(3).all(|part| part.parse::<u32>().is_ok()) && parts.next().is_none();
        Err(if numbers { INVALID_DOWNGRADE } else { WRONG_DOWNGRADE_FORMAT })
    }

    /// A snapshot's bytes, zeros up to a whole page, and the sha256 of all that.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn snapshot(
        self: Arc<Self>,
        _: pb::SnapshotRequest,
    ) -> Result<impl Stream<Item = Result<pb::SnapshotResponse, Status>> + use<>, Status> {
        let file = self.store.snapshot_file().await?;
        let len = file.file.size().map_err(|error| broken(&error))?;
        let sending = Sending { file, left: len, padding: len.next_multiple_of(PAGE) - len, digest: Sha256::new(), done: false };
        Ok(futures::stream::try_unfold(sending, move |sending| {
            let face = self.clone();
            async move {
                let Some((remaining_bytes, blob, sending)) = next_piece(sending).await? else { return Ok(None) };
                let response = pb::SnapshotResponse { header: face.header_now(), remaining_bytes, blob, version: VERSION.into() };
                Ok(Some((response, sending)))
            }
        }))
    }
}

struct Sending {
    file: FileStream,
    left: u64,
    padding: u64,
    digest: Sha256,
    done: bool,
}

fn broken(error: &dyn std::fmt::Display) -> Status {
    Status::from(StoreError::Failed(format!("the snapshot cannot be read: {error}")))
}

/// Bytes that remain, and the next ones.
async fn next_piece(mut sending: Sending) -> Result<Option<(u64, bytes::Bytes, Sending)>, Status> {
    if sending.done {
        return Ok(None);
    }
    let read = tokio::task::spawn_blocking(move || {
        if sending.left + sending.padding == 0 {
            sending.done = true;
            let sum = sending.digest.finalize_reset();
            return Ok((0, bytes::Bytes::copy_from_slice(&sum), sending));
        }
        let mut piece = vec![0; PIECE.min((sending.left + sending.padding) as usize)];
        let data = piece.len().min(sending.left as usize);
        sending.file.read_exact(&mut piece[..data])?;
        sending.left -= data as u64;
        sending.padding -= (piece.len() - data) as u64;
        sending.digest.update(&piece);
        Ok((sending.left + sending.padding, bytes::Bytes::from(piece), sending))
    });
    let piece: std::io::Result<_> = read.await.map_err(|error| broken(&error))?;
    piece.map(Some).map_err(|error| broken(&error))
}
