//! Frames with snapshots: cut into chunks by the sender, put together again by the receiver.

use std::io;
use std::time::{Duration, Instant};

use serde_bytes::ByteBuf;
use tarpc::client::RpcError;
use uuid::Uuid;

use super::client;
use crate::rpc::link::Dial;
use crate::rpc::peer::{SNAPSHOT_BYTES_MAX, SNAPSHOT_CHUNK_BYTES_MAX, SnapshotChunk};
use crate::rpc::wire::Refusal;

/// How long one chunk may take.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a snapshot did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("it is larger than {} MiB", SNAPSHOT_BYTES_MAX >> 20)]
    TooLarge,
    #[error("{0}")]
    Unreachable(#[from] io::Error),
    #[error("the connection broke: {0}")]
    Broken(#[from] RpcError),
    #[error("it was refused: {0}")]
    Refused(#[from] Refusal),
}

/// Sends a frame over a connection of its own; returns when the receiver's node has taken it in.
pub async fn send(frame: Vec<u8>, dial: &dyn Dial, address: &str) -> Result<(), Lost> {
    let bytes_total = frame.len() as u64;
    if bytes_total > SNAPSHOT_BYTES_MAX {
        return Err(Lost::TooLarge);
    }
    let (client, ended) = client(dial.dial(address).await?);
    let transfer = Uuid::new_v4();
    let chunks = async {
        for (number, bytes) in frame.chunks(SNAPSHOT_CHUNK_BYTES_MAX).enumerate() {
            let offset = (number * SNAPSHOT_CHUNK_BYTES_MAX) as u64;
            let chunk = SnapshotChunk { transfer, offset, bytes_total, bytes: ByteBuf::from(bytes) };
            let mut context = tarpc::context::current();
            context.deadline = Instant::now() + CHUNK_TIMEOUT;
            client.snapshot(context, chunk).await??;
        }
        Ok(())
    };
    tokio::select! {
        // The last answer may come together with the end of the connection.
        biased;
        result = chunks => result,
        reason = ended => Err(Lost::Unreachable(io::Error::new(io::ErrorKind::ConnectionReset, reason))),
    }
}

/// The frame that one connection is bringing.
#[derive(Default)]
pub struct Assembly {
    transfer: Uuid,
    bytes_total: u64,
    /// Grows with what has come, whatever was announced.
    bytes: Vec<u8>,
}

impl Assembly {
    /// Adds a chunk; gives the frame when it is whole. What doesn't fit ends the transfer.
    pub fn add(&mut self, chunk: SnapshotChunk) -> Result<Option<Vec<u8>>, Refusal> {
        if chunk.offset == 0 {
            *self = Assembly { transfer: chunk.transfer, bytes_total: chunk.bytes_total, bytes: Vec::new() };
        }
        let is_same = (chunk.transfer, chunk.bytes_total, chunk.offset) == (self.transfer, self.bytes_total, self.bytes.len() as u64);
        let end = chunk.offset.saturating_add(chunk.bytes.len() as u64);
        let is_sound = !chunk.bytes.is_empty() && chunk.bytes.len() <= SNAPSHOT_CHUNK_BYTES_MAX && chunk.bytes_total <= SNAPSHOT_BYTES_MAX;
        if !is_same || !is_sound || end > chunk.bytes_total {
            *self = Assembly::default();
            let SnapshotChunk { offset, bytes_total, .. } = chunk;
            return Err(Refusal::Failed(format!("the piece at byte {offset} of {bytes_total} does not follow what came before it")));
        }
        self.bytes.extend_from_slice(&chunk.bytes);
        if end < self.bytes_total {
            return Ok(None);
        }
        Ok(Some(std::mem::take(self).bytes))
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(transfer: u128, offset: u64, bytes_total: u64, bytes: &[u8]) -> SnapshotChunk {
        SnapshotChunk { transfer: Uuid::from_u128(transfer), offset, bytes_total, bytes: ByteBuf::from(bytes) }
    }

    #[test]
    fn pieces_in_order_give_the_frame_and_a_new_transfer_starts_over() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.add(chunk(1, 0, 3, b"ab")), Ok(None));
        assert_eq!(assembly.add(chunk(2, 0, 4, b"xyz")), Ok(None));
        assert_eq!(assembly.add(chunk(2, 3, 4, b"!")), Ok(Some(b"xyz!".to_vec())));
        assert!(assembly.is_empty());
        assert_eq!(assembly.add(chunk(3, 0, 1, b"a")), Ok(Some(b"a".to_vec())));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_ends_the_transfer() {
        let large = vec![0; SNAPSHOT_CHUNK_BYTES_MAX + 1];
        let wrong = [
            chunk(1, 3, 9, b"c"),
            chunk(1, 1, 9, b"c"),
            chunk(2, 2, 9, b"c"),
            chunk(1, 2, 8, b"c"),
            chunk(1, 2, 9, b""),
            chunk(1, 2, 9, b"12345678"),
            chunk(1, 0, u64::MAX, b"c"),
            chunk(1, 0, SNAPSHOT_BYTES_MAX, &large),
        ];
        for chunk_that_is_wrong in wrong {
            let mut assembly = Assembly::default();
            assert_eq!(assembly.add(chunk(1, 0, 9, b"ab")), Ok(None));
            assert!(
                assembly.add(chunk_that_is_wrong.clone()).is_err(),
                "{:?}",
                (chunk_that_is_wrong.offset, chunk_that_is_wrong.bytes_total)
            );
            assert!(assembly.add(chunk(1, 2, 9, b"c")).is_err(), "the transfer is over");
        }
    }
}
