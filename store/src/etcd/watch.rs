//! Watch: one stream carries many watches. Nothing runs for it but the stream itself, which looks at its watches when the
//! transport has room for an answer: whoever does not read is not read for, and its watches fall back to history.
//!
//! May import: `command`, `error`, `etcd`, `watch`.

use super::Face;
use super::kv::{key_range, key_value};
use super::pb::etcdserverpb::{self as pb, watch_create_request::FilterType, watch_request::RequestUnion};
use super::pb::mvccpb;
use super::status::{NO_LEADER, STOPPED, Status};
use super::wire::{Encode, MESSAGE_BYTES, Messages};
use crate::command::{KeyValue, Revision};
use crate::error::StoreError;
use crate::watch::{WatchBatch, WatchEvent, Watcher};
use bytes::{Bytes, BytesMut};
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
/// An answer's field for its events; none stands behind it.
const EVENTS_FIELD: u32 = 11;

/// Whose turn it can be.
#[derive(Clone, Copy)]
enum Who {
    Client,
    Watch(i64),
}

/// Who has something to tell, and the task to tell it to.
#[derive(Default)]
struct Ready {
    list: Mutex<VecDeque<Who>>,
    task: AtomicWaker,
}

/// A watch's, or the client's, own waker: puts it on the list, once.
struct Turn {
    who: Who,
    listed: AtomicBool,
    ready: Arc<Ready>,
}

impl Turn {
    /// It is on the list from the beginning.
    fn new(who: Who, ready: &Arc<Ready>) -> Arc<Self> {
        let turn = Arc::new(Self { who, listed: AtomicBool::new(false), ready: ready.clone() });
        turn.wake_by_ref();
        turn
    }
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.listed.swap(true, Ordering::AcqRel) {
            self.ready.list.lock().push_back(self.who);
            self.ready.task.wake();
        }
    }
}

/// An answer, its events encoded beforehand.
pub struct Answer {
    /// All but the events.
    head: pb::WatchResponse,
    /// One event or several each.
    events: Vec<Bytes>,
}

impl From<pb::WatchResponse> for Answer {
    fn from(head: pb::WatchResponse) -> Self {
        Self { head, events: Vec::new() }
    }
}

impl Encode for Answer {
    fn size(&self) -> usize {
        self.head.encoded_len() + self.events.iter().map(Bytes::len).sum::<usize>()
    }

    fn write(&self, out: &mut BytesMut) {
        self.head.encode_raw(out);
        for events in &self.events {
            out.extend_from_slice(events);
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
    client: Arc<Turn>,
    watches: HashMap<i64, Watching>,
    next_id: i64,
    ready: Arc<Ready>,
    out: VecDeque<Answer>,
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
        let ready = Arc::default();
        Self {
            report: tokio::time::interval_at(start, face.progress_interval),
            face,
            requests,
            client: Turn::new(Who::Client, &ready),
            watches: HashMap::new(),
            next_id: 0,
            ready,
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
                self.out.push_back(created.into());
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
            self.out.push_back(pb::WatchResponse { canceled: true, ..response }.into());
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
                self.out.push_back(created.into());
                return Ok(pb::WatchResponse { canceled: true, compact_revision: compacted, ..self.response(id, now) });
            }
            Err(error) => return Err(error.into()),
        };
        let turn = Turn::new(Who::Watch(id), &self.ready);
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

    /// Lets whoever may have something, and is next, tell it; false: there is nobody.
    fn turn(&mut self) -> Result<bool, Status> {
        let Some(who) = self.ready.list.lock().pop_front() else { return Ok(false) };
        match who {
            Who::Client => self.hear()?,
            Who::Watch(id) => self.tell(id)?,
        }
        Ok(true)
    }

    /// Takes the client's next request.
    fn hear(&mut self) -> Result<(), Status> {
        // From here on it may get onto the list again.
        self.client.listed.store(false, Ordering::Release);
        let waker = Waker::from(self.client.clone());
        match Pin::new(&mut self.requests).poll_next(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(request)) => {
                self.client.wake_by_ref();
                self.handle(request?)
            }
            // It has said all that it will.
            Poll::Ready(None) | Poll::Pending => Ok(()),
        }
    }

    /// Takes what a watch has.
    fn tell(&mut self, id: i64) -> Result<(), Status> {
        let Some(watching) = self.watches.get_mut(&id) else { return Ok(()) };
        // From here on it may get onto the list again.
        watching.turn.listed.store(false, Ordering::Release);
        let batch = match watching.watcher.poll_next(&mut Context::from_waker(&watching.waker)) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(batch)) => batch,
            Poll::Ready(Err(StoreError::Compacted { compacted })) => {
                self.watches.remove(&id);
                let response = self.response(id, self.face.store.revision());
                self.out.push_back(pb::WatchResponse { canceled: true, compact_revision: compacted, ..response }.into());
                return Ok(());
            }
            Poll::Ready(Err(StoreError::Closed)) => return Err(STOPPED),
            Poll::Ready(Err(error)) => return Err(error.into()),
        };
        let (events, revision) = watching.gather(batch);
        if events.is_empty() {
            return Ok(());
        }
        watching.quiet = false;
        let fragment = watching.fragment;
        let answer = Answer { head: self.response(id, revision), events };
        if fragment {
            self.out.extend(fragments(answer));
        } else {
            self.out.push_back(answer);
        }
        Ok(())
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
            self.out.push_back(response.into());
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
                self.out.push_back(response.into());
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
    /// Events of the batch, and of those at hand behind it, encoded. The watch is on the list afterwards if there may be more.
    fn gather(&mut self, first: WatchBatch) -> (Vec<Bytes>, Revision) {
        let mut events = Vec::new();
        let (mut count, mut bytes, mut batch) = (0, 0, first);
        loop {
            let before = events.len();
            self.encode(&batch, &mut events);
            count += batch.events.len();
            bytes += events[before..].iter().map(Bytes::len).sum::<usize>();
            let more = (count < EVENTS && bytes < EVENT_BYTES).then(|| self.watcher.poll_next(&mut Context::from_waker(&self.waker)));
            match more {
                Some(Poll::Ready(Ok(next))) => batch = next,
                Some(Poll::Pending) => return (events, batch.revision),
                // An error comes again.
                Some(Poll::Ready(Err(_))) | None => {
                    self.turn.wake_by_ref();
                    return (events, batch.revision);
                }
            }
        }
    }

    /// Adds a batch's events that are wanted: all in one, or each by itself where some may be left out, or cut off.
    fn encode(&self, batch: &WatchBatch, events: &mut Vec<Bytes>) {
        if !(self.no_put || self.no_delete || self.fragment) {
            events.push(batch.events.encoded(self.prev_kv, |events| encoded(events, self.prev_kv)));
            return;
        }
        let wanted = batch.events.iter().filter(|event| match event {
            WatchEvent::Put { .. } => !self.no_put,
            WatchEvent::Delete { .. } => !self.no_delete,
        });
        events.extend(wanted.map(|event| encoded(std::slice::from_ref(event), self.prev_kv)));
    }
}

/// Events as they stand in an answer.
fn encoded(events: &[WatchEvent], prev_kv: bool) -> Bytes {
    let mut out = BytesMut::new();
    for event in events {
        prost::encoding::message::encode(EVENTS_FIELD, &message(event, prev_kv), &mut out);
    }
    out.freeze()
}

fn message(event: &WatchEvent, prev_kv: bool) -> mvccpb::Event {
    let wanted = |prev: &Option<KeyValue>| prev.clone().filter(|_| prev_kv).map(key_value);
    match event {
        WatchEvent::Put { kv, prev } => {
            mvccpb::Event { r#type: mvccpb::event::EventType::Put as i32, kv: Some(key_value(kv.clone())), prev_kv: wanted(prev) }
        }
        WatchEvent::Delete { key, mod_revision, prev } => mvccpb::Event {
            r#type: mvccpb::event::EventType::Delete as i32,
            kv: Some(mvccpb::KeyValue { key: key.clone(), mod_revision: *mod_revision, ..mvccpb::KeyValue::default() }),
            prev_kv: wanted(prev),
        },
    }
}

/// Cuts an answer that is larger than a request may be.
fn fragments(answer: Answer) -> Vec<Answer> {
    if answer.events.len() < 2 || answer.size() < MESSAGE_BYTES {
        return vec![answer];
    }
    let Answer { head: pb::WatchResponse { header, watch_id, .. }, events } = answer;
    let head = |fragment| pb::WatchResponse { header, watch_id, fragment, ..pb::WatchResponse::default() };
    let (mut parts, mut held, mut bytes) = (Vec::new(), Vec::new(), 0);
    for event in events {
        if !held.is_empty() && bytes + event.len() >= MESSAGE_BYTES {
            parts.push(Answer { head: head(true), events: std::mem::take(&mut held) });
            bytes = 0;
        }
        bytes += event.len();
        held.push(event);
    }
    parts.push(Answer { head: head(false), events: held });
    parts
}

impl Stream for WatchStream {
    type Item = Result<Answer, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.ready.task.register(context.waker());
        loop {
            if let Some(answer) = this.out.pop_front() {
                return Poll::Ready(Some(Ok(answer)));
            }
            if this.turn()? {
                continue;
            }
            if this.leaderless.as_mut().is_some_and(|lost| lost.poll_unpin(context).is_ready()) {
                return Poll::Ready(Some(Err(NO_LEADER)));
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

    fn put(at: u8, bytes: usize) -> WatchEvent {
        let kv = |revision| KeyValue {
            key: vec![at].into(),
            value: vec![at; bytes].into(),
            create_revision: 2,
            mod_revision: revision,
            version: revision - 1,
            lease: 0,
        };
        WatchEvent::Put { kv: kv(3), prev: Some(kv(2)) }
    }

    fn decoded(answer: &Answer) -> pb::WatchResponse {
        let mut out = BytesMut::new();
        answer.write(&mut out);
        assert_eq!(out.len(), answer.size());
        pb::WatchResponse::decode(out.freeze()).unwrap()
    }

    #[test]
    fn events_encoded_beforehand_are_those_of_the_message() {
        let gone = WatchEvent::Delete { key: "k".into(), mod_revision: 4, prev: None };
        for prev_kv in [false, true] {
            let events = [put(1, 10), gone.clone()];
            let head = pb::WatchResponse { watch_id: 7, ..pb::WatchResponse::default() };
            let answer = Answer { head: head.clone(), events: vec![encoded(&events, prev_kv)] };
            let whole = pb::WatchResponse { events: events.iter().map(|event| message(event, prev_kv)).collect(), ..head };
            assert_eq!(decoded(&answer), whole);
            assert_eq!(whole.events[0].prev_kv.is_some(), prev_kv);
        }
    }

    #[test]
    fn a_large_answer_comes_in_parts_that_make_it_whole() {
        let pieces: Vec<Bytes> = (0..10).map(|at| encoded(&[put(at, 600 << 10)], false)).collect();
        let head = pb::WatchResponse { watch_id: 7, ..pb::WatchResponse::default() };
        let parts = fragments(Answer { head: head.clone(), events: pieces.clone() });
        let parts: Vec<_> = parts.iter().inspect(|part| assert!(part.size() < MESSAGE_BYTES)).map(decoded).collect();
        let flags: Vec<bool> = parts.iter().map(|part| part.fragment).collect();
        assert_eq!(flags, [true, true, true, false]);
        assert!(parts.iter().all(|part| part.watch_id == 7));
        let keys: Vec<u8> = parts.iter().flat_map(|part| &part.events).map(|event| event.kv.as_ref().unwrap().key[0]).collect();
        assert_eq!(keys, (0..10).collect::<Vec<u8>>());
        let small = fragments(Answer { head, events: pieces[..1].to_vec() });
        assert_eq!(small.iter().map(|part| decoded(part).fragment).collect::<Vec<_>>(), [false]);
    }
}
