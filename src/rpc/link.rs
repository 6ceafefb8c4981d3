//! How one side reaches the other: a byte stream, from wherever it comes.

use std::io;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream between two peers.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

pub type Connection = Box<dyn Io>;

/// Opens connections. In standalone both sides live in one process and the stream is a pair of buffers; nothing listens.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    async fn dial(&self, address: &str) -> io::Result<Connection>;
}
