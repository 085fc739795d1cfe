//! The body of a watch: one JSON frame a line, as the events come.
//!
//! May import: meta, kinds, api::requests, api::negotiate, api::tables. Frames are written around the objects' own JSON
//! bytes; whatever waits is sent in one piece, up to `CHUNK_BYTES`, because a write to the connection costs far more than
//! a copy.

use crate::api::negotiate::View;
use crate::api::requests::Watched;
use crate::api::tables::{self, Shown};
use crate::env::Clock;
use crate::kinds::{Object, Resource};
use crate::meta::Status;
use bytes::{BufMut, Bytes, BytesMut};
use http_body::Frame;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// About one TLS record.
const CHUNK_BYTES: usize = 16 * 1024;
/// Events that are taken from the channel at once.
const BATCH: usize = 128;

/// Writes the frames of one watch.
pub struct Frames {
    resource: &'static dyn Resource,
    shown: Shown,
    clock: Arc<dyn Clock>,
    /// A Table names its columns in the first event alone.
    columns: bool,
}

impl Frames {
    pub fn new(resource: &'static dyn Resource, shown: Shown, clock: Arc<dyn Clock>) -> Self {
        Self { resource, shown, clock, columns: true }
    }

    fn write(&mut self, out: &mut BytesMut, event: &Result<Watched, Status>) {
        match event {
            Ok(Watched::Added(object)) => self.object(out, "ADDED", object),
            Ok(Watched::Modified(object)) => self.object(out, "MODIFIED", object),
            Ok(Watched::Deleted(object)) => self.object(out, "DELETED", object),
            Ok(Watched::Bookmark { revision, initial_events_end }) => {
                frame(out, "BOOKMARK", self.bookmark(*revision, *initial_events_end).to_string().as_bytes());
            }
            Err(status) => frame(out, "ERROR", status.to_value().to_string().as_bytes()),
        }
    }

    fn object(&mut self, out: &mut BytesMut, kind: &str, object: &Arc<Object>) {
        if self.shown.view == View::Object {
            return frame(out, kind, object.json());
        }
        self.shown.now = self.clock.now();
        match tables::single(object, self.shown, self.columns) {
            Some(view) => frame(out, kind, &view),
            None => frame(out, kind, object.json()),
        }
        self.columns = false;
    }

    fn bookmark(&self, revision: i64, initial_events_end: bool) -> Value {
        let names = self.resource.names();
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        match self.shown.view {
            View::Object => json!({"kind": names.kind, "apiVersion": names.group_version().to_string(), "metadata": metadata}),
            View::Table(version) => json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": {"resourceVersion": revision.to_string()}, "columnDefinitions": null,
                "rows": [{"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata}}]}),
            View::PartialMetadata(version) | View::PartialMetadataList(version) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata})
            }
        }
    }
}

fn frame(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.reserve(object.len() + 32);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
}

/// Ends when the events do, at its deadline, or when the server stops or has lost the other masters.
pub struct WatchBody {
    events: mpsc::Receiver<Result<Watched, Status>>,
    frames: Frames,
    waiting: Vec<Result<Watched, Status>>,
    deadline: Pin<Box<Sleep>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

impl WatchBody {
    pub fn new(events: mpsc::Receiver<Result<Watched, Status>>, frames: Frames, lasts: Duration, stop: CancellationToken) -> Self {
        Self {
            events,
            frames,
            waiting: Vec::new(),
            deadline: Box::pin(tokio::time::sleep_until(Instant::now() + lasts)),
            stop: Box::pin(stop.cancelled_owned()),
            ended: false,
        }
    }

    /// Frames of what waits, as many as fit one chunk.
    fn chunk(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        let mut taken = 0;
        for event in &self.waiting {
            self.frames.write(&mut out, event);
            taken += 1;
            if event.is_err() {
                self.ended = true;
            }
            if self.ended || out.len() >= CHUNK_BYTES {
                break;
            }
        }
        self.waiting.drain(..taken);
        out.freeze()
    }
}

impl http_body::Body for WatchBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if this.waiting.is_empty() {
            match this.events.poll_recv_many(cx, &mut this.waiting, BATCH) {
                Poll::Ready(0) => {
                    this.ended = true;
                    return Poll::Ready(None);
                }
                Poll::Ready(_) => {}
                Poll::Pending => {
                    let over = this.deadline.as_mut().poll(cx).is_ready() || this.stop.as_mut().poll(cx).is_ready();
                    this.ended = over;
                    return if over { Poll::Ready(None) } else { Poll::Pending };
                }
            }
        }
        // A watch that is never at rest ends too.
        if this.deadline.deadline() <= Instant::now() {
            this.ended = true;
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(this.chunk()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tables::Include;
    use crate::env::SystemClock;
    use crate::kinds::{ConfigMap, Registered, load};
    use http_body_util::BodyExt;
    use k8s_openapi::jiff::Timestamp;

    fn body(view: View, lasts: Duration) -> (mpsc::Sender<Result<Watched, Status>>, CancellationToken, WatchBody) {
        let (sender, receiver) = mpsc::channel(500);
        let shown = Shown { view, include: Include::Metadata, now: Timestamp::UNIX_EPOCH };
        let stop = CancellationToken::new();
        let frames = Frames::new(ConfigMap::resource(), shown, Arc::new(SystemClock));
        (sender, stop.clone(), WatchBody::new(receiver, frames, lasts, stop))
    }

    fn object(revision: i64) -> Arc<Object> {
        load(ConfigMap::resource(), br#"{"metadata":{"name":"a"}}"#, revision).unwrap()
    }

    async fn lines(body: WatchBody) -> Vec<Value> {
        let bytes = body.collect().await.unwrap().to_bytes();
        bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect()
    }

    #[tokio::test]
    async fn events_become_lines_and_an_error_ends_them() {
        let (sender, _stop, body) = body(View::Object, Duration::from_secs(60));
        sender.send(Ok(Watched::Added(object(3)))).await.unwrap();
        sender.send(Ok(Watched::Modified(object(4)))).await.unwrap();
        sender.send(Ok(Watched::Bookmark { revision: 9, initial_events_end: true })).await.unwrap();
        sender.send(Err(Status::expired("too old"))).await.unwrap();
        sender.send(Ok(Watched::Deleted(object(5)))).await.unwrap();
        let got = lines(body).await;
        let types: Vec<_> = got.iter().map(|e| e["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["ADDED", "MODIFIED", "BOOKMARK", "ERROR"]);
        assert_eq!(got[1]["object"]["metadata"]["resourceVersion"], "4");
        let want = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"resourceVersion": "9", "creationTimestamp": null,
            "annotations": {"k8s.io/initial-events-end": "true"}}});
        assert_eq!(got[2]["object"], want);
        assert_eq!(got[3]["object"]["code"], 410);
    }

    #[tokio::test]
    async fn a_table_names_its_columns_once() {
        let (sender, _stop, body) = body(View::Table("v1"), Duration::from_secs(60));
        sender.send(Ok(Watched::Added(object(3)))).await.unwrap();
        sender.send(Ok(Watched::Deleted(object(4)))).await.unwrap();
        drop(sender);
        let got = lines(body).await;
        assert!(got[0]["object"]["columnDefinitions"].is_array());
        assert!(got[1]["object"]["columnDefinitions"].is_null());
        assert_eq!(got[1]["object"]["kind"], "Table");
    }

    #[tokio::test]
    async fn many_events_come_in_few_chunks() {
        let (sender, _stop, mut body) = body(View::Object, Duration::from_secs(60));
        for revision in 0..400 {
            sender.send(Ok(Watched::Modified(object(revision)))).await.unwrap();
        }
        drop(sender);
        let (mut chunks, mut count) = (0, 0);
        while let Some(frame) = body.frame().await {
            chunks += 1;
            count += frame.unwrap().into_data().unwrap().iter().filter(|b| **b == b'\n').count();
        }
        assert_eq!(count, 400);
        assert!(chunks <= 8, "{chunks}");
    }

    #[tokio::test]
    async fn it_ends_at_its_deadline_and_when_the_server_stops() {
        let (_sender, _stop, timed) = body(View::Object, Duration::from_millis(5));
        assert!(lines(timed).await.is_empty());
        let (_sender, stop, stopped) = body(View::Object, Duration::from_secs(3000));
        stop.cancel();
        assert!(lines(stopped).await.is_empty());
    }
}
