//! When a snapshot is taken, and who is being sent one. Encoding and writing happen on another thread ([`Work`]).

use std::collections::BTreeMap;

use crate::consensus::members::Membership;
use crate::consensus::storage::{Disk, Image, Mark, StorageError};
use crate::model::{ClusterId, NodeId};

/// Work for a thread that may block; its result goes back to the node as [`super::Input::Done`].
pub struct Work(Box<dyn FnOnce() -> WorkDone + Send>);

impl Work {
    pub fn run(self) -> WorkDone {
        (self.0)()
    }

    /// Encodes a state and writes it durably. With `keep` the image stays in memory, to be sent.
    pub(super) fn write_snapshot(
        disk: impl Disk,
        cluster: ClusterId,
        mark: Mark,
        membership: Membership,
        keep: bool,
        encode: Box<dyn FnOnce() -> Vec<u8> + Send>,
    ) -> Work {
        Work(Box::new(move || {
            let bytes = Image::encode(cluster, mark, &membership, &encode());
            let result = Image::store(&disk, mark, &bytes).map(|()| bytes);
            let image = result.map(|bytes| if keep { Image::decode(cluster, bytes.into()).ok() } else { None });
            WorkDone { mark, image }
        }))
    }
}

/// A snapshot was written, or not.
pub struct WorkDone {
    pub(super) mark: Mark,
    pub(super) image: Result<Option<Image>, StorageError>,
}

/// Where this node stands with its snapshots.
#[derive(Default)]
pub struct Snapshots {
    pub is_writing: bool,
    /// Applied since the last one.
    pub entries: u64,
    pub bytes: u64,
    /// Followers that are being sent one, since when.
    pub sent_ms: BTreeMap<NodeId, u64>,
    /// When one was last held ready for sending.
    pub outgoing_ms: u64,
}

impl Snapshots {
    pub fn applied(&mut self, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes as u64;
    }

    pub fn begin(&mut self) {
        self.is_writing = true;
        self.entries = 0;
        self.bytes = 0;
    }
}
