//! Where a simulated member is to be found: its store, while it runs. What is under way when it dies has an open outcome.

use super::trace::Trace;
use crate::history::{Answer, Request, Seen};
use crate::target::{Live, carry_out};
use orchd_store::{KeyRange, RangeResponse, Revision, Store, StoreError, TxnResponse};
use tokio::sync::watch;

fn kind(request: &Request) -> &'static str {
    match request {
        Request::Txn(_) => "a transaction",
        Request::Range(_) => "a linearizable read",
        Request::RangeLocal(_) => "a read",
        Request::Compact(_) => "a compaction",
        Request::LeaseGrant { .. } => "a grant of a lease",
        Request::LeaseKeepAlive { .. } => "a lease kept alive",
        Request::LeaseRevoke { .. } => "a lease revoked",
    }
}

/// How often the member has come or gone, and its store while it is there.
type Life = (u64, Option<Store>);

#[derive(Clone)]
pub struct Slot {
    name: &'static str,
    trace: Trace,
    life: watch::Sender<Life>,
    /// Reads that should be linearizable are not: for a test of the tests.
    stale: bool,
}

impl Slot {
    pub fn new(name: &'static str, trace: Trace, stale: bool) -> Self {
        Self { name, trace, life: watch::Sender::default(), stale }
    }

    pub fn store(&self) -> Option<Store> {
        self.life.borrow().1.clone()
    }

    /// The member comes, or goes; returns the store that was there.
    pub fn put(&self, store: Option<Store>) -> Option<Store> {
        let (life, _) = *self.life.borrow();
        self.life.send_replace((life + 1, store)).1
    }

    /// Returns when whoever was there in this life is not there any more.
    async fn gone(&self, was: u64) {
        // The slot holds its own sender.
        let _ = self.life.subscribe().wait_for(|(life, _)| *life != was).await;
    }

    /// # Errors
    /// The store's; `NoLeader` if nobody is there, `Timeout` if it dies meanwhile.
    pub async fn call(&self, request: Request) -> Result<Answer, StoreError> {
        let (life, store) = self.life.borrow().clone();
        let store = store.ok_or(StoreError::NoLeader)?;
        let request = match request {
            Request::Range(range) if self.stale => Request::RangeLocal(range),
            request => request,
        };
        let kind = kind(&request);
        self.trace.note(format_args!("{}  is asked: {kind}", self.name));
        let answer = tokio::select! {
            biased;
            () = self.gone(life) => Err(StoreError::Timeout),
            answer = carry_out(&store, request) => answer,
        };
        match &answer {
            Ok(Answer::Txn(TxnResponse { revision, .. }) | Answer::Range(RangeResponse { revision, .. })) => {
                self.trace.note(format_args!("{}  answers: {kind}, at revision {revision}", self.name));
            }
            Ok(Answer::Done) => self.trace.note(format_args!("{}  answers: {kind}", self.name)),
            Err(error) => self.trace.note(format_args!("{}  answers: {kind}, {error}", self.name)),
        }
        answer
    }

    /// None: nobody is there.
    pub fn watch(&self, range: KeyRange, start: Revision) -> Option<Result<(SlotWatch, Revision), StoreError>> {
        let (life, store) = self.life.borrow().clone();
        let store = store?;
        let watcher = store.watch(range, start);
        Some(watcher.map(|watcher| (SlotWatch { slot: self.clone(), life, live: Live::new(watcher) }, store.revision())))
    }
}

pub struct SlotWatch {
    slot: Slot,
    life: u64,
    live: Live,
}

impl SlotWatch {
    /// # Errors
    /// The watch's; `Closed` if the member dies.
    pub async fn next(&mut self) -> Result<Seen, StoreError> {
        tokio::select! {
            biased;
            () = self.slot.gone(self.life) => Err(StoreError::Closed),
            next = self.live.next() => next,
        }
    }
}
