//! Safety, shown: recorded histories of clients against the store, through whatever may befall it, judged by checkers
//! which are themselves shown to catch what they are for. store/tests/README.md says what is here and how to run it larger.

mod checks;
mod child;
mod disk;
mod flips;
mod history;
mod kill;
mod lone;
mod members;
mod model;
mod power;
mod random;
mod replay;
mod requests;
mod seeded;
mod sequential;
mod simulation;
mod target;
mod timeline;
mod watches;
mod wgl;
mod workload;

/// orchd's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A number from the environment, for runs larger than CI's.
fn setting(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}
