//! The machine as the running store shares it: who applies, who reads, who waits for a revision. May import: `command`,
//! `error`, `machine`.

use crate::command::{Command, Output, RangeRequest, RangeResponse, Revision};
use crate::error::StoreError;
use crate::machine::{Hash, Hashing, Machine, Scan};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::{Notify, watch};

/// Commands applied, and keys looked at, before the lock is offered to others.
const APPLY_SLICE: usize = 256;
const READ_SLICE: usize = 1024;
/// Changes behind a compaction that are freed with each entry applied.
const COLLECT_SLICE: usize = 256;
/// Times that a read of the present begins anew because compaction overtook it, before it holds the lock throughout.
const READ_ATTEMPTS: usize = 3;
/// Times that a hash begins anew because compaction overtook it.
const HASH_ATTEMPTS: usize = 8;

/// How far the log has been applied. Opaque to all but Raft.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// One past the last applied index; 0: none.
    pub next: u64,
    /// Encoded id of the last applied entry.
    pub log_id: Option<Bytes>,
    /// Encoded last applied membership.
    pub membership: Option<Bytes>,
}

pub struct State {
    machine: RwLock<Machine>,
    /// Held for as long as an entry is being applied: whoever holds it sees the machine between two entries.
    applied: Mutex<Applied>,
    revision: AtomicI64,
    compacted: AtomicI64,
    progress: watch::Sender<Revision>,
    /// One past the last applied index.
    next: watch::Sender<u64>,
    granted: Granted,
}

/// Leases granted since whoever counts their time last asked: ids and seconds.
#[derive(Default)]
pub struct Granted {
    leases: Mutex<Vec<(i64, i64)>>,
    told: Notify,
}

impl Granted {
    fn add(&self, outputs: &[Result<Output, StoreError>]) {
        let mut granted = outputs.iter().filter_map(|output| match output {
            Ok(Output::LeaseGranted { id, ttl_s }) => Some((*id, *ttl_s)),
            _ => None,
        });
        if let Some(first) = granted.next() {
            self.leases.lock().extend(std::iter::once(first).chain(granted));
            self.told.notify_one();
        }
    }

    /// What has been granted since the last call.
    pub fn take(&self) -> Vec<(i64, i64)> {
        std::mem::take(&mut self.leases.lock())
    }

    /// Returns once there is something to take.
    pub async fn told(&self) {
        self.told.notified().await;
    }
}

impl State {
    pub fn new(machine: Machine, applied: Applied) -> Self {
        let revision = machine.revision();
        Self {
            revision: AtomicI64::new(revision),
            compacted: AtomicI64::new(machine.compacted()),
            machine: RwLock::new(machine),
            progress: watch::Sender::new(revision),
            next: watch::Sender::new(applied.next),
            applied: Mutex::new(applied),
            granted: Granted::default(),
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    pub fn compacted(&self) -> Revision {
        self.compacted.load(Ordering::Acquire)
    }

    /// Tells of every advance of the revision.
    pub fn progress(&self) -> watch::Receiver<Revision> {
        self.progress.subscribe()
    }

    /// Leases that have come into being.
    pub fn granted(&self) -> &Granted {
        &self.granted
    }

    pub fn applied(&self) -> Applied {
        self.applied.lock().clone()
    }

    /// Returns once the entry of this index is applied.
    pub async fn wait_applied(&self, index: u64) {
        let waited = self.next.subscribe().wait_for(|next| *next > index).await.is_ok();
        debug_assert!(waited, "the state holds its own sender");
    }

    /// Applies one entry's commands, letting readers in between, and then takes note of the entry.
    pub fn apply<'a>(
        &self,
        commands: impl Iterator<Item = &'a Command>,
        note: impl FnOnce(&mut Applied),
    ) -> Vec<Result<Output, StoreError>> {
        let mut applied = self.applied.lock();
        let mut commands = commands.peekable();
        let mut outputs = Vec::with_capacity(commands.size_hint().0);
        let mut machine = self.machine.write();
        while commands.peek().is_some() {
            outputs.extend(commands.by_ref().take(APPLY_SLICE).map(|command| machine.apply(command)));
            self.publish(&machine);
            if commands.peek().is_some() {
                RwLockWriteGuard::bump(&mut machine);
            }
        }
        machine.collect(COLLECT_SLICE);
        drop(machine);
        self.granted.add(&outputs);
        note(&mut applied);
        self.next.send_replace(applied.next);
        outputs
    }

    /// Puts another state in the place of this one (a snapshot from the leader).
    pub fn replace(&self, machine: Machine, applied: Applied) {
        let mut held = self.applied.lock();
        let mut old = self.machine.write();
        *old = machine;
        *held = applied;
        self.publish(&old);
        self.next.send_replace(held.next);
    }

    fn publish(&self, machine: &Machine) {
        self.compacted.store(machine.compacted(), Ordering::Release);
        let revision = machine.revision();
        if self.revision.swap(revision, Ordering::AcqRel) != revision {
            self.progress.send_replace(revision);
        }
    }

    /// Looks at the machine. Short work only: nothing is applied meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        look(&self.machine.read())
    }

    /// Looks at the machine between two entries, with the position that it stands for.
    pub fn between<T>(&self, look: impl FnOnce(&mut Machine, &Applied) -> T) -> T {
        let applied = self.applied.lock();
        look(&mut self.machine.write(), &applied)
    }

    /// Tells that the checkpoint holds everything up to this revision.
    pub fn saved(&self, revision: Revision) {
        self.machine.write().saved(revision);
    }

    /// Frees a slice of what compaction has left; true: there is more.
    pub fn collect(&self) -> bool {
        self.machine.write().collect(COLLECT_SLICE)
    }

    /// A range at one revision; the lock is let go between slices.
    ///
    /// # Errors
    /// `Compacted` or `Future`.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        for _ in 0..READ_ATTEMPTS {
            match self.paged(request) {
                // A read of the present cannot be compacted away; it only has to look again.
                Err(StoreError::Compacted { .. }) if request.revision == 0 => {}
                done => return done,
            }
        }
        self.machine.read().range(request)
    }

    /// A hash over everything at a revision; the lock is let go between slices. Takes as long as reading all of it.
    ///
    /// # Errors
    /// `Compacted` or `Future`.
    pub fn hash(&self, revision: Revision) -> Result<Hash, StoreError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.hash_once(revision) {
                // Compaction overtook it; what it asks for may still be there.
                Err(StoreError::Compacted { compacted }) if revision == 0 || revision >= compacted => {
                    if attempt >= HASH_ATTEMPTS {
                        return Err(StoreError::Timeout);
                    }
                }
                done => return done,
            }
        }
    }

    fn hash_once(&self, revision: Revision) -> Result<Hash, StoreError> {
        let mut hashing = Hashing::new(&self.machine.read(), revision)?;
        loop {
            if let Some(hash) = hashing.slice(&self.machine.read())? {
                return Ok(hash);
            }
        }
    }

    fn paged(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        let mut machine = self.machine.read();
        let mut scan = Scan::new(&machine, request)?;
        while scan.page(&machine, READ_SLICE)? {
            drop(machine);
            machine = self.machine.read();
        }
        drop(machine);
        Ok(scan.finish())
    }
}
