//! What the leader does for members that pass requests on. May import: `batch`, `codec`, `error`, `lease`, `raft`, `space`.

use crate::batch::Batcher;
use crate::codec;
use crate::error::StoreError;
use crate::lease::Leases;
use crate::raft::{Item, Office, Reply};
use crate::space::Space;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;

pub struct Leader {
    pub batcher: Batcher,
    pub leases: Arc<Leases>,
    pub space: Arc<Space>,
}

impl Leader {
    async fn carry_out(&self, commands: Vec<Bytes>) -> Result<(u64, Reply), StoreError> {
        let mut items = Vec::with_capacity(commands.len());
        // Answers of those that there is no room for, by position.
        let mut refused = Vec::new();
        for (position, encoded) in commands.into_iter().enumerate() {
            let command = codec::decode(&encoded).map_err(|error| StoreError::Failed(error.to_string()))?;
            let item = Item { command, encoded };
            match self.space.admit(&item) {
                Ok(()) => items.push(item),
                Err(error) => refused.push((position, error)),
            }
        }
        if items.is_empty() {
            return Ok((0, Reply(refused.into_iter().map(|(_, error)| Err(error)).collect())));
        }
        let (index, Reply(mut outputs)) = self.batcher.submit_group(items).await?;
        for (position, error) in refused {
            outputs.insert(position, Err(error));
        }
        Ok((index, Reply(outputs)))
    }
}

impl Office for Leader {
    fn propose(&self, commands: Vec<Bytes>) -> BoxFuture<'_, Result<(u64, Reply), StoreError>> {
        self.carry_out(commands).boxed()
    }

    fn keep_alive(&self, id: i64) -> Result<i64, StoreError> {
        self.leases.keep_alive(id)
    }

    fn time_to_live(&self, id: i64) -> Result<(i64, i64), StoreError> {
        self.leases.time_to_live(id)
    }
}
