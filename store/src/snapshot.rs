//! Snapshots: whole images of the store, from which a lagging member or a broken checkpoint is brought up. May import:
//! `machine`, `state`.

use crate::machine::{Delta, Machine, Row};
use crate::state::{Applied, State};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

/// The whole state at one position of the log.
pub struct Image {
    applied: Applied,
    delta: Delta,
}

impl Image {
    pub fn applied(&self) -> &Applied {
        &self.applied
    }
}

#[derive(Default)]
pub struct Snapshots {
    current: Mutex<Option<Arc<Image>>>,
}

impl Snapshots {
    pub fn build(&self, state: &State) -> io::Result<Arc<Image>> {
        let image = state.between(|machine, applied| Arc::new(Image { applied: applied.clone(), delta: machine.whole() }));
        *self.current.lock() = Some(image.clone());
        Ok(image)
    }

    pub fn current(&self) -> Option<Arc<Image>> {
        self.current.lock().clone()
    }

    pub fn install(&self, state: &State, image: Arc<Image>) -> io::Result<()> {
        let mut machine = Machine::at(image.delta.revision, image.delta.compacted);
        for (id, ttl_s) in &image.delta.leases {
            machine.load(Row::Lease { id: *id, ttl_s: ttl_s.unwrap_or_default() });
        }
        for row in &image.delta.rows {
            machine.load(row.clone());
        }
        machine.loaded();
        state.replace(machine, image.applied.clone());
        *self.current.lock() = Some(image);
        Ok(())
    }
}
