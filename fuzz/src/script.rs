//! A connection whose other side says what is written down, and takes whatever it is told.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What comes next, after all that was said so far.
type More = Box<dyn FnMut(&[u8]) -> Vec<u8> + Send>;

/// Gives `input`, then its end.
pub struct Script {
    input: Vec<u8>,
    at: usize,
    pub said: Vec<u8>,
    /// Called with all that was said so far when the input is used up; gives more of it, or nothing for the end.
    more: More,
}

impl Script {
    pub fn new(input: Vec<u8>) -> Script {
        Script::answering(input, |_| Vec::new())
    }

    pub fn answering(input: Vec<u8>, more: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static) -> Script {
        Script { input, at: 0, said: Vec::new(), more: Box::new(more) }
    }
}

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.at == this.input.len() {
            let more = (this.more)(&this.said);
            this.input.extend_from_slice(&more);
        }
        let count = buf.remaining().min(this.input.len() - this.at);
        buf.put_slice(&this.input[this.at..this.at + count]);
        this.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Answers are looked at by their beginnings only.
        if self.said.len() < 4_096 {
            self.said.extend_from_slice(bytes);
        }
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Nothing that a script says takes so long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a future to its end, on a runtime of this thread's own.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it hangs") }))
}
