//! Container logs: the options of `kubectl logs` over a CRI log file, followed by inotify, never by polling.

use super::log_file::{Line, Selection, parse_line, tail_start};
use super::{LogSource, Pods, Query};
use crate::env::DirWatch;
use crate::meta::Status;
use axum::body::Body;
use bytes::Bytes;
use http::Response;
use k8s_openapi::jiff::Timestamp;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

const QUEUE: usize = 16;
/// Output is sent in pieces of about this size.
const PIECE_BYTES: usize = 32 << 10;
/// A line longer than this in a log file was not written by our shim.
const MAX_LINE_BYTES: usize = 1 << 20;

pub(super) fn serve(pods: &dyn Pods, query: &Query) -> Result<Response<Body>, Status> {
    let (container, previous) = (query.text("container"), query.flag("previous"));
    let source = pods.log(query.text("namespace"), query.text("pod"), container, previous)?;
    let selection = selection(query)?;
    let follow = query.flag("follow") && !previous;
    let (out, pieces) = mpsc::channel::<io::Result<Bytes>>(QUEUE);
    tokio::spawn(async move {
        if let Err(error) = copy(&source, selection, follow, &out).await {
            // The reader may have gone first.
            drop(out.send(Err(error)).await);
        }
    });
    let stream = futures::stream::unfold(pieces, |mut pieces| async move { pieces.recv().await.map(|piece| (piece, pieces)) });
    Ok(Response::new(Body::from_stream(stream)))
}

fn selection(query: &Query) -> Result<Selection, Status> {
    let since = match (query.get("sinceTime"), query.number("sinceSeconds")) {
        (Some(text), _) => Some(text.parse::<Timestamp>().map_err(|e| Status::bad_request(format!("sinceTime: {e}")))?),
        (None, Some(seconds)) => Timestamp::from_second(Timestamp::now().as_second().saturating_sub(seconds)).ok(),
        (None, None) => None,
    };
    let stream = match query.text("stream") {
        "Stdout" => Some("stdout"),
        "Stderr" => Some("stderr"),
        _ => None,
    };
    Ok(Selection {
        since,
        tail_lines: query.number("tailLines").and_then(|n| usize::try_from(n).ok()),
        limit_bytes: query.number("limitBytes").and_then(|n| usize::try_from(n).ok()),
        timestamps: query.flag("timestamps"),
        stream,
    })
}

/// Sends what is selected of the file, and with `follow` what comes after, until the container has ended.
async fn copy(source: &LogSource, selection: Selection, follow: bool, out: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut wake = DirWatch::new(source.path.parent().unwrap_or(Path::new("/")))?;
    let mut file = match File::open(&source.path).await {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if let Some(lines) = selection.tail_lines {
        file = tail_start(file, lines).await?;
    }
    // What is written meanwhile is not among the last lines that were asked for.
    let lines_left = selection.tail_lines.filter(|_| !follow);
    let mut writer = Writer { selection, lines_left, sent: 0, piece: Vec::new(), out };
    loop {
        let inode = file.metadata().await?.ino();
        let mut reader = BufReader::with_capacity(PIECE_BYTES, file);
        let mut line = Vec::new();
        loop {
            // Asked before reading: what is written until the container ends is read after it has ended.
            let ended = source.ended.is_cancelled();
            let more = writer.copy_lines(&mut reader, &mut line).await?;
            if !more {
                return Ok(());
            }
            if rotated(&source.path, inode).await {
                break;
            }
            if ended || !follow {
                return Ok(());
            }
            tokio::select! {
                woken = wake.wait() => woken?,
                () = source.ended.cancelled() => {}
                () = out.closed() => return Ok(()),
            }
        }
        writer.copy_lines(&mut reader, &mut line).await?;
        file = File::open(&source.path).await?;
    }
}

async fn rotated(path: &Path, inode: u64) -> bool {
    tokio::fs::metadata(path).await.is_ok_and(|m| m.ino() != inode)
}

struct Writer<'a> {
    selection: Selection,
    /// Lines of the file that may still be sent; None: all.
    lines_left: Option<usize>,
    sent: usize,
    piece: Vec<u8>,
    out: &'a mpsc::Sender<io::Result<Bytes>>,
}

impl Writer<'_> {
    /// Sends every whole line that is there; a part of one stays in `line`. False: the reader wants no more.
    async fn copy_lines(&mut self, reader: &mut BufReader<File>, line: &mut Vec<u8>) -> io::Result<bool> {
        while self.lines_left != Some(0) && reader.read_until(b'\n', line).await? > 0 {
            if line.last() != Some(&b'\n') {
                if line.len() > MAX_LINE_BYTES {
                    return Err(io::Error::other("the log file holds a line that is no log line"));
                }
                break;
            }
            self.lines_left = self.lines_left.map(|left| left - 1);
            let wants_more = parse_line(line).is_none_or(|parsed| self.take(&parsed));
            line.clear();
            if !wants_more || (self.piece.len() >= PIECE_BYTES && !self.flush().await) {
                self.flush().await;
                return Ok(false);
            }
        }
        Ok(self.flush().await)
    }

    /// Puts a line into the piece; false once the byte limit is reached.
    fn take(&mut self, line: &Line<'_>) -> bool {
        if !self.selection.takes(line) {
            return true;
        }
        let start = self.piece.len();
        self.selection.write(line, &mut self.piece);
        let Some(limit) = self.selection.limit_bytes else { return true };
        let room = limit.saturating_sub(self.sent);
        let added = self.piece.len() - start;
        if added >= room {
            self.piece.truncate(start + room);
        }
        self.sent += added.min(room);
        self.sent < limit
    }

    /// False if nobody reads any more.
    async fn flush(&mut self) -> bool {
        if self.piece.is_empty() {
            return !self.out.is_closed();
        }
        self.out.send(Ok(Bytes::from(std::mem::take(&mut self.piece)))).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_than_the_last_lines_are_sent_whatever_is_written_meanwhile() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let line = |n: u32| format!("2026-01-02T03:04:0{n}Z stdout F line {n}\n");
        std::fs::write(named.path(), [1, 2, 3].map(line).concat()).unwrap();
        let file = tail_start(File::open(named.path()).await.unwrap(), 1).await.unwrap();
        std::fs::write(named.path(), [1, 2, 3, 4].map(line).concat()).unwrap();
        let (out, mut pieces) = mpsc::channel(QUEUE);
        let mut writer = Writer { selection: Selection::default(), lines_left: Some(1), sent: 0, piece: Vec::new(), out: &out };
        assert!(writer.copy_lines(&mut BufReader::new(file), &mut Vec::new()).await.unwrap());
        drop(out);
        assert_eq!(pieces.recv().await.unwrap().unwrap(), "line 3\n");
        assert!(pieces.recv().await.is_none());
    }
}
