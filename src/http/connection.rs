//! One connection: its time limits, and its orderly end.
//!
//! hyper bounds the time for a request's head; this adds what it does not: a client that sends nothing at all, or takes nothing of its
//! answer, or keeps an HTTP/2 connection open without requests.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep, timeout};

/// Requests of one connection that are under way, their answers' bodies included.
#[derive(Default)]
pub struct Activity {
    under_way: AtomicUsize,
    changed: Notify,
}

impl Activity {
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_one();
        Busy(self.clone())
    }

    /// Returns when nothing has been under way for `limit`.
    pub async fn idle_for(&self, limit: Duration) {
        loop {
            let change = self.changed.notified();
            if self.under_way.load(Ordering::SeqCst) > 0 {
                change.await;
            } else if timeout(limit, change).await.is_err() && self.under_way.load(Ordering::SeqCst) == 0 {
                return;
            }
        }
    }
}

/// Counts as a request under way while it lives.
pub struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_one();
    }
}

/// An answer's body that counts as under way until it is sent.
pub struct CountedBody<B> {
    body: B,
    _busy: Busy,
}

impl<B> CountedBody<B> {
    pub fn new(body: B, busy: Busy) -> CountedBody<B> {
        CountedBody { body, _busy: busy }
    }
}

impl<B: Body + Unpin> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream on which a write that gets nowhere for `stall` fails, so that a client that reads nothing holds nothing for long.
pub struct Impatient<S> {
    stream: S,
    stall: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    pub fn new(stream: S, stall: Duration) -> Impatient<S> {
        Impatient { stream, stall, waiting: None }
    }

    fn bounded<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.waiting = None;
            return progress;
        }
        let stall = self.stall;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(stall)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bounded(cx, progress)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.bounded(cx, progress)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_flush(cx);
        self.bounded(cx, progress)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.bounded(cx, progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_connection_is_idle_only_while_no_answer_is_under_way() {
        let activity = Arc::new(Activity::default());
        let (first, second) = (activity.begin(), activity.begin());
        drop(first);
        assert!(timeout(20 * SOON, activity.idle_for(SOON)).await.is_err());
        drop(second);
        activity.idle_for(SOON).await;
    }

    #[tokio::test]
    async fn a_write_that_gets_nowhere_fails_and_one_that_goes_on_does_not() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (near, mut far) = tokio::io::duplex(4);
        let mut near = Impatient::new(near, SOON);
        near.write_all(b"fits").await.unwrap();
        assert_eq!(near.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut read = [0; 4];
        far.read_exact(&mut read).await.unwrap();
        near.write_all(b"more").await.unwrap();
    }
}
