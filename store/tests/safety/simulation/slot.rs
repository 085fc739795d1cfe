//! Where a simulated member is to be found: its store, while it runs. What is under way when it dies has an open outcome.

use crate::history::{Answer, Request, Seen};
use crate::target::{Live, carry_out};
use orchd_store::{KeyRange, Revision, Store, StoreError};
use tokio::sync::watch;

/// How often the member has come or gone, and its store while it is there.
type Life = (u64, Option<Store>);

#[derive(Clone)]
pub struct Slot {
    life: watch::Sender<Life>,
    /// Reads that should be linearizable are not: for a test of the tests.
    stale: bool,
}

impl Slot {
    pub fn new(stale: bool) -> Self {
        Self { life: watch::Sender::default(), stale }
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
        tokio::select! {
            biased;
            () = self.gone(life) => Err(StoreError::Timeout),
            answer = carry_out(&store, request) => answer,
        }
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
