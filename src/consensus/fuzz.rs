//! What the fuzz targets may call of this part: the readers of what peers send.

use bytes::Bytes;

use super::node::frame::{self, Body};
use super::storage::Image;
use crate::model::ClusterId;

/// Reads a frame as it comes from a peer, and the snapshot in it if it carries one; whether it was a frame.
pub fn read_frame(bytes: Vec<u8>) -> bool {
    let Some(frame) = frame::decode(bytes) else { return false };
    if let Body::Raft(message) = frame.body {
        read_snapshot(frame.cluster, message.get_snapshot().data.clone());
    }
    true
}

/// Reads a snapshot, its membership included; whether it was one of this cluster's.
pub fn read_snapshot(cluster: ClusterId, bytes: Bytes) -> bool {
    Image::decode(cluster, bytes).is_ok_and(|image| {
        let (_, _, membership) = (image.body(), image.to_raft(), image.membership.to_string());
        !membership.is_empty()
    })
}
