//! Where the store's random numbers come from: the system, or, on a thread that was given one, a seed. Raft draws from it
//! too. May import: nothing of ours.

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::cell::RefCell;

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// From now on what this thread draws follows from `seed`. For simulations: ids that others must not guess are drawn too.
pub fn seed(seed: u64) {
    SEEDED.set(Some(StdRng::seed_from_u64(seed)));
}

/// Fills `bytes` with random ones.
pub(crate) fn fill(bytes: &mut [u8]) {
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(seeded) => seeded.fill_bytes(bytes),
        None => rand::rng().fill_bytes(bytes),
    });
}

/// Any number but 0.
pub(crate) fn id() -> u64 {
    loop {
        let mut bytes = [0; 8];
        fill(&mut bytes);
        if bytes != [0; 8] {
            return u64::from_le_bytes(bytes);
        }
    }
}
