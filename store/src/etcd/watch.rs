//! Watch: one stream carries many watches. Nothing runs for it but the stream itself, which looks at its watches when the
//! transport has room for an answer: whoever does not read is not read for, and its watches fall back to history.
//!
//! May import: `command`, `error`, `etcd`, `watch`.

use super::Face;
use super::kv::{key_range, key_value};
use super::pb::etcdserverpb::{self as pb, watch_create_request::FilterType, watch_request::RequestUnion};
use super::pb::mvccpb;
use super::status::{NO_LEADER, STOPPED, Status};
use super::wire::{MESSAGE_BYTES, Messages};
use crate::command::{KeyValue, Revision};
use crate::error::StoreError;
use crate::watch::{WatchBatch, WatchEvent, Watcher};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use futures::{FutureExt, Stream};
use parking_lot::Mutex;
use prost::Message;
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use tokio::time::Interval;

/// Watches of one stream.
const WATCHES: usize = 1 << 16;
/// Events, and bytes of them, that go into one answer if they are at hand; a revision stays whole.
const EVENTS: usize = 512;
const EVENT_BYTES: usize = 64 << 10;
/// The id of no watch.
const NONE: i64 = -1;

/// Watches that have something to tell, and the task to tell it to.
#[derive(Default)]
struct Ready {
    ids: Mutex<VecDeque<i64>>,
    task: AtomicWaker,
}

/// A watch's own waker: puts it on the list, once.
struct Turn {
    id: i64,
    listed: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.listed.swap(true, Ordering::AcqRel) {
            self.ready.ids.lock().push_back(self.id);
            self.ready.task.wake();
        }
    }
}

/// One watch.
struct Watching {
    watcher: Watcher,
    turn: Arc<Turn>,
    waker: Waker,
    prev_kv: bool,
    fragment: bool,
    no_put: bool,
    no_delete: bool,
    progress_notify: bool,
    /// Nothing has been told since the last progress report was due.
    quiet: bool,
}

/// The answers of a watch stream.
pub struct WatchStream {
    face: Arc<Face>,
    requests: Messages<pb::WatchRequest>,
    /// The client has said all that it will.
    heard: bool,
    watches: HashMap<i64, Watching>,
    next_id: i64,
    ready: Arc<Ready>,
    out: VecDeque<pb::WatchResponse>,
    /// The client asks how far all its watches are; the answer has to be at least so far.
    asked: Option<Revision>,
    /// Ends when watches that keep up have been told of more.
    advance: Option<BoxFuture<'static, ()>>,
    report: Interval,
    /// Ends when there has been no leader for too long.
    leaderless: Option<BoxFuture<'static, ()>>,
}

impl WatchStream {
    pub fn new(face: Arc<Face>, requests: Messages<pb::WatchRequest>, needs_leader: bool) -> Self {
        let mut led = face.led.subscribe();
        let leaderless = needs_leader.then(|| {
            async move {
                // If the sender is gone the server ends, and so do the watches.
                let _ = led.wait_for(|led| !*led).await;
            }
            .boxed()
        });
        let start = tokio::time::Instant::now() + face.progress_interval;
        Self {
            report: tokio::time::interval_at(start, face.progress_interval),
            face,
            requests,
            heard: false,
            watches: HashMap::new(),
            next_id: 0,
            ready: Arc::default(),
            out: VecDeque::new(),
            asked: None,
            advance: None,
            leaderless,
        }
    }

    fn response(&self, watch_id: i64, revision: Revision) -> pb::WatchResponse {
        pb::WatchResponse { header: self.face.header(revision), watch_id, ..pb::WatchResponse::default() }
    }

    fn handle(&mut self, request: pb::WatchRequest) -> Result<(), Status> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                let created = self.create(create)?;
                self.out.push_back(created);
            }
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.asked = Some(self.face.store.revision()),
            None => {}
        }
        Ok(())
    }

    fn cancel(&mut self, id: i64) {
        if self.watches.remove(&id).is_some() {
            let response = self.response(id, self.face.store.revision());
            self.out.push_back(pb::WatchResponse { canceled: true, ..response });
        }
    }

    fn create(&mut self, request: pb::WatchCreateRequest) -> Result<pb::WatchResponse, Status> {
        let now = self.face.store.revision();
        let refused = |this: &Self, reason: String| pb::WatchResponse {
            created: true,
            canceled: true,
            cancel_reason: reason,
            ..this.response(NONE, now)
        };
        let key = if request.key.is_empty() { Bytes::from_static(&[0]) } else { request.key };
        if request.start_revision < 0 {
            return Ok(refused(self, "etcdserver: mvcc: required revision has been compacted".into()));
        }
        let open = request.range_end[..] == [0];
        if !request.range_end.is_empty() && !open && request.range_end <= key {
            return Ok(refused(self, "mvcc: watcher range is empty".into()));
        }
        if self.watches.len() >= WATCHES {
            return Ok(refused(self, format!("mvcc: a stream carries at most {WATCHES} watches")));
        }
        if request.watch_id != 0 && self.watches.contains_key(&request.watch_id) {
            return Ok(refused(self, "mvcc: duplicate watch ID provided on the WatchStream".into()));
        }
        let id = if request.watch_id != 0 { request.watch_id } else { self.choose_id() };
        let created = pb::WatchResponse { created: true, ..self.response(id, now) };
        let watcher = match self.face.store.watch(key_range(key, request.range_end), request.start_revision) {
            Ok(watcher) => watcher,
            Err(StoreError::Compacted { compacted }) => {
                // It is made, and ends at once, as a watch that has fallen behind does.
                self.out.push_back(created);
                return Ok(pb::WatchResponse { canceled: true, compact_revision: compacted, ..self.response(id, now) });
            }
            Err(error) => return Err(error.into()),
        };
        let turn = Arc::new(Turn { id, listed: AtomicBool::new(false), ready: self.ready.clone() });
        turn.wake_by_ref();
        let filters = |kind: FilterType| request.filters.contains(&(kind as i32));
        let watching = Watching {
            watcher,
            waker: Waker::from(turn.clone()),
            turn,
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            no_put: filters(FilterType::Noput),
            no_delete: filters(FilterType::Nodelete),
            progress_notify: request.progress_notify,
            quiet: true,
        };
        self.watches.insert(id, watching);
        Ok(created)
    }

    fn choose_id(&mut self) -> i64 {
        loop {
            let id = self.next_id;
            self.next_id += 1;
            if !self.watches.contains_key(&id) {
                return id;
            }
        }
    }

    /// Lets the next watch that may have something tell it.
    fn turn(&mut self) -> Result<bool, Status> {
        let Some(id) = self.ready.ids.lock().pop_front() else { return Ok(false) };
        let Some(watching) = self.watches.get_mut(&id) else { return Ok(true) };
        // From here on it may get onto the list again.
        watching.turn.listed.store(false, Ordering::Release);
        let batch = match watching.watcher.poll_next(&mut Context::from_waker(&watching.waker)) {
            Poll::Pending => return Ok(true),
            Poll::Ready(Ok(batch)) => batch,
            Poll::Ready(Err(StoreError::Compacted { compacted })) => {
                self.watches.remove(&id);
                let response = self.response(id, self.face.store.revision());
                self.out.push_back(pb::WatchResponse { canceled: true, compact_revision: compacted, ..response });
                return Ok(true);
            }
            Poll::Ready(Err(StoreError::Closed)) => return Err(STOPPED),
            Poll::Ready(Err(error)) => return Err(error.into()),
        };
        let (events, revision) = watching.gather(batch);
        watching.turn.wake_by_ref();
        if events.is_empty() {
            return Ok(true);
        }
        watching.quiet = false;
        let fragment = watching.fragment;
        let response = pb::WatchResponse { events, ..self.response(id, revision) };
        if fragment {
            self.out.extend(fragments(response));
        } else {
            self.out.push_back(response);
        }
        Ok(true)
    }

    /// Reports progress, to watches that want it regularly and have had nothing to tell.
    fn reports(&mut self) {
        let mut due = Vec::new();
        for (id, watching) in self.watches.iter_mut().filter(|(_, watching)| watching.progress_notify) {
            if watching.quiet
                && let Some(revision) = watching.watcher.synced()
            {
                due.push((*id, revision));
            }
            watching.quiet = true;
        }
        for (id, revision) in due {
            let response = self.response(id, revision);
            self.out.push_back(response);
        }
    }

    /// Answers how far all watches are, once all are far enough; else waits for them.
    fn progress(&mut self, context: &mut Context<'_>) {
        while let Some(asked) = self.asked {
            let Some(first) = self.watches.values().next() else {
                // etcd does not answer a stream without watches.
                self.asked = None;
                return;
            };
            let advance = self.advance.get_or_insert_with(|| {
                let mut dispatched = first.watcher.dispatched();
                async move {
                    // If the sender is gone the watches end.
                    let _ = dispatched.changed().await;
                }
                .boxed()
            });
            // Polled before looking, so that no step in between is missed.
            let moved = advance.poll_unpin(context).is_ready();
            let synced = self.watches.values().map(|watching| watching.watcher.synced()).min().flatten();
            if let Some(revision) = synced.filter(|revision| *revision >= asked) {
                self.asked = None;
                self.advance = None;
                let response = self.response(NONE, revision);
                self.out.push_back(response);
                return;
            }
            if !moved {
                return;
            }
            self.advance = None;
        }
    }
}

impl Watching {
    /// Events of the batch, and of those at hand behind it.
    fn gather(&mut self, first: WatchBatch) -> (Vec<mvccpb::Event>, Revision) {
        let mut events = Vec::with_capacity(first.events.len());
        let (mut bytes, mut batch) = (0, first);
        loop {
            for event in batch.events.iter() {
                if let Some(event) = self.event(event) {
                    bytes += event.kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
                    bytes += event.prev_kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
                    events.push(event);
                }
            }
            if events.len() >= EVENTS || bytes >= EVENT_BYTES {
                return (events, batch.revision);
            }
            match self.watcher.at_hand() {
                Some(next) => batch = next,
                None => return (events, batch.revision),
            }
        }
    }

    fn event(&self, event: &WatchEvent) -> Option<mvccpb::Event> {
        let wanted = |prev: &Option<KeyValue>| prev.clone().filter(|_| self.prev_kv).map(key_value);
        match event {
            WatchEvent::Put { kv, prev } => (!self.no_put).then(|| mvccpb::Event {
                r#type: mvccpb::event::EventType::Put as i32,
                kv: Some(key_value(kv.clone())),
                prev_kv: wanted(prev),
            }),
            WatchEvent::Delete { key, mod_revision, prev } => (!self.no_delete).then(|| mvccpb::Event {
                r#type: mvccpb::event::EventType::Delete as i32,
                kv: Some(mvccpb::KeyValue { key: key.clone(), mod_revision: *mod_revision, ..mvccpb::KeyValue::default() }),
                prev_kv: wanted(prev),
            }),
        }
    }
}

/// Cuts an answer that is larger than a request may be.
fn fragments(response: pb::WatchResponse) -> Vec<pb::WatchResponse> {
    if response.events.len() < 2 || response.encoded_len() < MESSAGE_BYTES {
        return vec![response];
    }
    let pb::WatchResponse { header, watch_id, events, .. } = response;
    let part = |events| pb::WatchResponse { header, watch_id, fragment: true, events, ..pb::WatchResponse::default() };
    let (mut parts, mut held, mut bytes) = (Vec::new(), Vec::new(), 0);
    for event in events {
        let len = event.encoded_len() + 8;
        if !held.is_empty() && bytes + len >= MESSAGE_BYTES {
            parts.push(part(std::mem::take(&mut held)));
            bytes = 0;
        }
        bytes += len;
        held.push(event);
    }
    parts.push(pb::WatchResponse { fragment: false, ..part(held) });
    parts
}

impl Stream for WatchStream {
    type Item = Result<pb::WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.ready.task.register(context.waker());
        loop {
            if let Some(response) = this.out.pop_front() {
                return Poll::Ready(Some(Ok(response)));
            }
            if this.leaderless.as_mut().is_some_and(|lost| lost.poll_unpin(context).is_ready()) {
                return Poll::Ready(Some(Err(NO_LEADER)));
            }
            if !this.heard {
                match Pin::new(&mut this.requests).poll_next(context) {
                    Poll::Ready(Some(Ok(request))) => {
                        this.handle(request)?;
                        continue;
                    }
                    Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                    Poll::Ready(None) => this.heard = true,
                    Poll::Pending => {}
                }
            }
            if this.turn()? {
                continue;
            }
            if this.report.poll_tick(context).is_ready() {
                this.reports();
                continue;
            }
            this.progress(context);
            if this.out.is_empty() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_answer_comes_in_parts_that_make_it_whole() {
        let kv = |at: u8| mvccpb::KeyValue { key: vec![at].into(), value: vec![0; 600 << 10].into(), ..mvccpb::KeyValue::default() };
        let events: Vec<_> = (0..10).map(|at| mvccpb::Event { kv: Some(kv(at)), ..mvccpb::Event::default() }).collect();
        let whole = pb::WatchResponse { watch_id: 7, events: events.clone(), ..pb::WatchResponse::default() };
        let parts = fragments(whole);
        assert!(parts.iter().all(|part| part.encoded_len() < MESSAGE_BYTES && part.watch_id == 7));
        let flags: Vec<bool> = parts.iter().map(|part| part.fragment).collect();
        assert_eq!(flags, [true, true, true, false]);
        assert_eq!(parts.into_iter().flat_map(|part| part.events).collect::<Vec<_>>(), events);
        let small = pb::WatchResponse { events: events[..1].to_vec(), ..pb::WatchResponse::default() };
        assert_eq!(fragments(small.clone()), [small]);
    }
}
