//! openraft's own conformance suite over our log and state machine.

use super::{Types, log_store::LogStore, state_machine::StateMachine};
use crate::checkpoint::Checkpoint;
use crate::disk::System;
use crate::engine::memory::Memory;
use crate::log::Log;
use crate::machine::Machine;
use crate::snapshot::Snapshots;
use crate::state::{Applied, State};
use crate::world::World;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use std::sync::Arc;
use tempfile::TempDir;

struct Builder;

impl StoreBuilder<Types, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let log = LogStore::new(Arc::new(Log::open(&World::default(), &dir.path().join("log")).unwrap()));
        let state = Arc::new(State::new(Machine::default(), Applied::default()));
        let checkpoint = Checkpoint::new(Box::new(Memory::default()));
        let snapshots = Arc::new(Snapshots::new(Arc::new(System), dir.path().to_owned(), checkpoint, None));
        let machine = StateMachine::new(state, snapshots, log.clone());
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_of_storage_tests_holds() {
    Suite::test_all(Builder).await.unwrap();
}
