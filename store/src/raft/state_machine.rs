//! openraft's state machine over `crate::state`.

use super::{Entry, LogId, Membership, Reply, Types, log_store::LogStore};
use crate::codec;
use crate::snapshot::{Image, Snapshots};
use crate::state::{Applied, State};
use crate::work::blocking;
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use std::io;
use std::sync::Arc;

/// What travels when a member has fallen too far behind: a whole image of the store.
pub type SnapshotData = Arc<Image>;

#[derive(Clone)]
pub struct StateMachine {
    state: Arc<State>,
    snapshots: Arc<Snapshots>,
    log: LogStore,
}

impl StateMachine {
    pub fn new(state: Arc<State>, snapshots: Arc<Snapshots>, log: LogStore) -> Self {
        Self { state, snapshots, log }
    }

    fn apply_entry(&self, entry: &Entry) -> io::Result<Reply> {
        let log_id = codec::encode(&entry.log_id)?;
        let membership = match &entry.payload {
            EntryPayload::Membership(membership) => Some(codec::encode(&Membership::new(Some(entry.log_id), membership.clone()))?),
            EntryPayload::Blank | EntryPayload::Normal(_) => None,
        };
        let note = |applied: &mut Applied| {
            applied.next = entry.log_id.index + 1;
            applied.log_id = Some(log_id);
            if membership.is_some() {
                applied.membership = membership;
            }
        };
        let items = match &entry.payload {
            EntryPayload::Normal(batch) => &batch.0[..],
            EntryPayload::Blank | EntryPayload::Membership(_) => &[],
        };
        let outputs = self.state.apply(items.iter().map(|item| &item.command), note);
        self.log.applied(entry.log_id.index);
        Ok(Reply(outputs))
    }
}

/// The applied position in Raft's own terms.
fn position(applied: &Applied) -> io::Result<(Option<LogId>, Membership)> {
    let log_id = match &applied.log_id {
        Some(log_id) => Some(codec::decode(log_id)?),
        None => None,
    };
    let membership = match &applied.membership {
        Some(membership) => codec::decode(membership)?,
        None => Membership::default(),
    };
    Ok((log_id, membership))
}

pub fn offered(image: Arc<Image>) -> io::Result<SnapshotOf<Types, SnapshotData>> {
    let (last_log_id, last_membership) = position(image.applied())?;
    Ok(Snapshot { meta: SnapshotMeta { last_log_id, last_membership }, snapshot: image })
}

impl RaftSnapshotBuilder<Types> for StateMachine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, SnapshotData>> {
        offered(self.snapshots.clone().provide(self.state.clone()).await?)
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        position(&self.state.applied())
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let reply = self.apply_entry(&entry)?;
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMetaOf<Types>, image: SnapshotData) -> io::Result<()> {
        let (state, snapshots) = (self.state.clone(), self.snapshots.clone());
        blocking(move || snapshots.install(&state, &image)).await?
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, SnapshotData>>> {
        self.snapshots.current().map(offered).transpose()
    }
}
