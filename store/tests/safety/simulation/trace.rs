//! What happens in a simulation, in order, with its time: every message, every access to a disk, every fault. Equal seeds
//! must give equal traces, to the last event.

use parking_lot::Mutex;
use std::fmt::{Arguments, Write};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use tokio::time::Instant;

#[derive(Clone)]
pub struct Trace(Arc<Mutex<Events>>);

struct Events {
    begun: Instant,
    hash: DefaultHasher,
    count: usize,
    line: String,
    /// Every event, if they are to be kept.
    kept: Option<Vec<String>>,
    /// They are printed as they come.
    printed: bool,
}

/// What is left of a trace.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Traced {
    pub hash: u64,
    pub events: usize,
    pub lines: Vec<String>,
}

impl Trace {
    /// Begins now.
    pub fn new(keep: bool) -> Self {
        let (kept, printed) = (keep.then(Vec::new), crate::setting("SIMULATION_TRACE", 0) > 0);
        let (begun, hash) = (Instant::now(), DefaultHasher::new());
        Self(Arc::new(Mutex::new(Events { begun, hash, count: 0, line: String::new(), kept, printed })))
    }

    pub fn note(&self, what: Arguments<'_>) {
        let mut events = self.0.lock();
        let mut line = std::mem::take(&mut events.line);
        line.clear();
        write!(line, "{:>9} us  {what}", events.begun.elapsed().as_micros()).expect("a string takes everything");
        events.hash.write(line.as_bytes());
        events.count += 1;
        if events.printed {
            println!("{line}");
        }
        if let Some(kept) = &mut events.kept {
            kept.push(line.clone());
        }
        events.line = line;
    }

    pub fn taken(&self) -> Traced {
        let mut events = self.0.lock();
        Traced { hash: events.hash.finish(), events: events.count, lines: events.kept.take().unwrap_or_default() }
    }
}
