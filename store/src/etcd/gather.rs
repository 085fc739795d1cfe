//! Answers that are ready together leave together. A batch of the store answers hundreds of calls at once; each wakes its
//! connection, which would then write each answer alone. Writing costs more than all else that a call needs: so bytes are
//! kept until the connection wants them flushed, and then once more let pass whoever is ready to add to them. May import:
//! nothing of ours.
//!
//! Invariants: what is kept is bounded by `MOST`; a flush that has returned has written everything.

use hyper::rt::{Read, ReadBufCursor, Write};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Bytes kept, beyond which writing waits.
const MOST: usize = 64 << 10;
/// Bytes of an empty buffer that stay allocated.
const KEEP: usize = 8 << 10;

/// A stream whose writes are gathered.
pub struct Gathering<S> {
    stream: S,
    kept: Vec<u8>,
    written: usize,
    /// Others have been let pass since the last flush.
    waited: bool,
}

impl<S: Write + Unpin> Gathering<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, kept: Vec::new(), written: 0, waited: false }
    }

    /// Writes all that is kept.
    fn write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.kept.len() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, &self.kept[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.written = 0;
        self.kept.clear();
        self.kept.shrink_to(KEEP);
        Poll::Ready(Ok(()))
    }
}

impl<S: Read + Unpin> Read for Gathering<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: Write + Unpin> Write for Gathering<S> {
    /// Not vectored: h2 then copies answers of up to a kilobyte into its own buffer, and does not flush for each.
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.kept.len() >= MOST {
            ready!(self.write_out(context))?;
        }
        let count = bytes.len().min(MOST - self.kept.len());
        self.kept.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.kept.is_empty() && !self.waited {
            self.waited = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.write_out(context))?;
        self.waited = false;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_out(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_util::rt::TokioIo;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn everything_arrives_in_order_however_much_it_is() {
        let (near, mut far) = tokio::io::duplex(1000);
        let sent: Vec<u8> = (0..5 * MOST).map(|at| (at % 251) as u8).collect();
        let reading = tokio::spawn(async move {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            got
        });
        let mut gathering = Gathering::new(TokioIo::new(near));
        for part in sent.chunks(777) {
            let mut rest = part;
            while !rest.is_empty() {
                let count = poll_fn(|context| Pin::new(&mut gathering).poll_write(context, rest)).await.unwrap();
                rest = &rest[count..];
                assert!(gathering.kept.len() <= MOST);
            }
        }
        poll_fn(|context| Pin::new(&mut gathering).poll_flush(context)).await.unwrap();
        assert!(gathering.kept.is_empty() && gathering.kept.capacity() <= KEEP);
        drop(gathering);
        assert_eq!(reading.await.unwrap(), sent);
    }

    #[tokio::test]
    async fn others_pass_once_before_a_flush_writes() {
        let (near, _far) = tokio::io::duplex(1000);
        let mut gathering = Gathering::new(TokioIo::new(near));
        let mut polls = 0;
        let written = poll_fn(|context| Pin::new(&mut gathering).poll_write(context, b"answer")).await.unwrap();
        assert_eq!(written, 6);
        poll_fn(|context| {
            polls += 1;
            Pin::new(&mut gathering).poll_flush(context)
        })
        .await
        .unwrap();
        assert_eq!(polls, 2);
        poll_fn(|context| {
            polls += 1;
            Pin::new(&mut gathering).poll_flush(context)
        })
        .await
        .unwrap();
        assert_eq!(polls, 3, "with nothing to write nobody is waited for");
    }
}
