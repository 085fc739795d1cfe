//! The linearizability checker: Wing and Gong's search with Lowe's cache, as porcupine has it.
//!
//! It looks for an order of the calls that a sequential model allows and in which no call comes before one that had
//! already returned when it began. A call without a return may be placed anywhere after its beginning, or left out.
//! Memory and time are bounded: 16 bytes for each configuration met (a hash of the calls done and of the state, 128 bits,
//! so that a collision is out of the question), and a number of steps, beyond which the verdict is `Undecided`.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What a call may do to a state.
pub trait Model {
    type Op;
    type State: Clone + Hash;

    /// The state after the call; None: from this state, it cannot have answered as it did.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;

    /// Where the call probably stands: those that are lower are tried first. A guess that is wrong costs time only.
    fn guess(&self, op: &Self::Op) -> i64;
}

pub struct Call<O> {
    pub call: u64,
    pub ret: Option<u64>,
    pub op: O,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// No order fits. The longest one that did had this many calls; then none of `stuck` (positions) could follow.
    Violated {
        placed: usize,
        stuck: Vec<usize>,
    },
    /// The bounds were reached first.
    Undecided,
}

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub steps: u64,
    pub configurations: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        // 64 MB of configurations.
        Self { steps: 20_000_000, configurations: 4_000_000 }
    }
}

/// Calls and returns in order of time, as a list from which calls that are placed are taken out, and put back.
struct Events {
    /// By event: 2n is the call of n, 2n + 1 its return. The last one is the list's head.
    next: Vec<usize>,
    prev: Vec<usize>,
    head: usize,
}

impl Events {
    fn new<O>(calls: &[Call<O>]) -> Self {
        let head = 2 * calls.len();
        let mut order: Vec<(u64, usize)> = Vec::with_capacity(head);
        for (at, call) in calls.iter().enumerate() {
            order.push((call.call, 2 * at));
            order.extend(call.ret.map(|ret| (ret, 2 * at + 1)));
        }
        order.sort_unstable();
        let mut events = Self { next: vec![head; head + 1], prev: vec![head; head + 1], head };
        let mut last = head;
        for (_, event) in order {
            events.next[last] = event;
            events.prev[event] = last;
            last = event;
        }
        events.next[last] = head;
        events.prev[head] = last;
        events
    }

    fn unlink(&mut self, event: usize) {
        let (next, prev) = (self.next[event], self.prev[event]);
        self.next[prev] = next;
        self.prev[next] = prev;
    }

    fn relink(&mut self, event: usize) {
        let (next, prev) = (self.next[event], self.prev[event]);
        self.next[prev] = event;
        self.prev[next] = event;
    }

    fn take(&mut self, at: usize, returns: bool) {
        self.unlink(2 * at);
        if returns {
            self.unlink(2 * at + 1);
        }
    }

    fn put_back(&mut self, at: usize, returns: bool) {
        if returns {
            self.relink(2 * at + 1);
        }
        self.relink(2 * at);
    }

    /// Calls that began before anything that is left returned.
    fn concurrent(&self) -> Vec<usize> {
        let mut found = Vec::new();
        let mut event = self.next[self.head];
        while event != self.head && event.is_multiple_of(2) {
            found.push(event / 2);
            event = self.next[event];
        }
        found
    }
}

/// A call that was placed, what it was chosen from, and what can be tried in its stead.
struct Frame<S> {
    candidates: Vec<usize>,
    next: usize,
    state: S,
    /// Hash of the calls that are placed.
    done: u128,
}

fn hash_of(value: &impl Hash) -> u128 {
    let half = |seed: u64| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        value.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

/// Judges a history.
pub fn check<M: Model>(model: &M, initial: M::State, calls: &[Call<M::Op>], bounds: Bounds) -> Verdict {
    let mut events = Events::new(calls);
    let mut left = calls.iter().filter(|call| call.ret.is_some()).count();
    let candidates = |events: &Events| {
        let mut found = events.concurrent();
        // Calls whose outcome is open come last: they are placed only where nothing else helps.
        found.sort_by_key(|at| (calls[*at].ret.is_none(), model.guess(&calls[*at].op), *at));
        found
    };
    let mut frames = vec![Frame { candidates: candidates(&events), next: 0, state: initial, done: 0 }];
    let mut met: HashSet<u128> = HashSet::new();
    let mut furthest = Verdict::Violated { placed: 0, stuck: frames[0].candidates.clone() };
    let (mut steps, mut best) = (0_u64, 0);
    while left > 0 {
        let depth = frames.len() - 1;
        let frame = &mut frames[depth];
        let Some(at) = frame.candidates.get(frame.next).copied() else {
            // Nothing fits here: take the last one back.
            frames.pop();
            let Some(before) = frames.last() else { return furthest };
            let at = before.candidates[before.next - 1];
            events.put_back(at, calls[at].ret.is_some());
            left += usize::from(calls[at].ret.is_some());
            continue;
        };
        frame.next += 1;
        steps += 1;
        if steps > bounds.steps || met.len() > bounds.configurations {
            return Verdict::Undecided;
        }
        let Some(state) = model.step(&frame.state, &calls[at].op) else { continue };
        let done = frame.done ^ hash_of(&at);
        if !met.insert(done ^ hash_of(&state).rotate_left(1)) {
            continue;
        }
        events.take(at, calls[at].ret.is_some());
        left -= usize::from(calls[at].ret.is_some());
        let candidates = candidates(&events);
        if frames.len() > best {
            best = frames.len();
            furthest = Verdict::Violated { placed: best, stuck: candidates.clone() };
        }
        frames.push(Frame { candidates, next: 0, state, done });
    }
    Verdict::Linearizable
}
