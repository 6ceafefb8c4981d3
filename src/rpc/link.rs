//! How one side reaches the other: a byte stream, from wherever it comes.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

/// Waits between attempts to reach a peer, the first and the longest.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// A byte stream between two peers.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

pub type Connection = Box<dyn Io>;

/// Opens connections. In standalone both sides live in one process and the stream is a pair of buffers; nothing listens.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    async fn dial(&self, address: &str) -> io::Result<Connection>;
}

/// Waits that double.
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff(BACKOFF_FIRST)
    }
}

impl Backoff {
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(BACKOFF_MAX);
    }

    pub fn reset(&mut self) {
        *self = Backoff::default();
    }
}
