//! The way out to the other members: frames as bytes, on one bounded queue a peer. A full queue drops its oldest frame, for Raft repeats
//! what matters. A snapshot that is dropped is reported, for raft waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::status::Member;
use crate::model::NodeId;

/// Frames that wait for one peer.
const PEER_QUEUE_FRAMES_MAX: usize = 1_024;
/// Bytes that wait for one peer; a single larger frame still waits alone.
const PEER_QUEUE_BYTES_MAX: usize = 64 << 20;

/// What became of frames handed to a transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queued {
    Kept,
    /// Something for this peer was lost; `snapshot` says whether a snapshot was.
    Dropped {
        snapshot: bool,
    },
}

/// Takes frames to the other members. Called on the node's thread: must not block.
pub trait Transport: Send + 'static {
    fn send(&mut self, to: NodeId, frame: Vec<u8>, is_snapshot: bool) -> Queued;
    /// The members have changed: connections are to follow.
    fn members(&mut self, members: &[Member]);
}

/// The transport of a group of one.
pub struct NoPeers;

impl Transport for NoPeers {
    fn send(&mut self, _: NodeId, _: Vec<u8>, is_snapshot: bool) -> Queued {
        Queued::Dropped { snapshot: is_snapshot }
    }

    fn members(&mut self, _: &[Member]) {}
}

/// A frame on its way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutgoingFrame {
    pub bytes: Vec<u8>,
    pub is_snapshot: bool,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<OutgoingFrame>,
    bytes: usize,
    /// Shared with whoever waits for this queue.
    filled: Arc<Notify>,
}

/// One queue a peer, filled by the node's thread and emptied by one task a connection. Clones share the queues.
#[derive(Clone, Default)]
pub struct PeerQueues {
    queues: Arc<Mutex<BTreeMap<NodeId, Queue>>>,
}

impl PeerQueues {
    /// The next frame for `peer`, as soon as there is one.
    pub async fn next(&self, peer: NodeId) -> OutgoingFrame {
        loop {
            let filled = {
                let mut queues = self.lock();
                let queue = queues.entry(peer).or_default();
                if let Some(frame) = queue.frames.pop_front() {
                    queue.bytes -= frame.bytes.len();
                    return frame;
                }
                Arc::clone(&queue.filled)
            };
            filled.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Queue>> {
        // No code that can panic runs under this lock.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for PeerQueues {
    fn send(&mut self, to: NodeId, bytes: Vec<u8>, is_snapshot: bool) -> Queued {
        let mut queues = self.lock();
        let queue = queues.entry(to).or_default();
        let mut queued = Queued::Kept;
        while queue.frames.len() >= PEER_QUEUE_FRAMES_MAX || queue.bytes + bytes.len() > PEER_QUEUE_BYTES_MAX {
            let Some(oldest) = queue.frames.pop_front() else { break };
            queue.bytes -= oldest.bytes.len();
            let snapshot = oldest.is_snapshot || queued == Queued::Dropped { snapshot: true };
            queued = Queued::Dropped { snapshot };
        }
        queue.bytes += bytes.len();
        queue.frames.push_back(OutgoingFrame { bytes, is_snapshot });
        queue.filled.notify_one();
        queued
    }

    fn members(&mut self, members: &[Member]) {
        self.lock().retain(|id, _| members.iter().any(|member| member.id == *id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_drops_its_oldest_frame_and_reports_a_lost_snapshot() {
        let mut queues = PeerQueues::default();
        assert_eq!(queues.send(2, vec![0], true), Queued::Kept);
        for number in 1..PEER_QUEUE_FRAMES_MAX {
            assert_eq!(queues.send(2, vec![number as u8], false), Queued::Kept);
        }
        assert_eq!(queues.send(2, vec![7], false), Queued::Dropped { snapshot: true });
        assert_eq!(queues.send(2, vec![8], false), Queued::Dropped { snapshot: false });
        assert_eq!(queues.next(2).await.bytes, [2], "the oldest went first");
        assert_eq!(queues.send(3, vec![9], false), Queued::Kept, "each peer has a queue of its own");
    }

    #[tokio::test]
    async fn a_frame_larger_than_the_queue_still_goes_alone() {
        let mut queues = PeerQueues::default();
        assert_eq!(queues.send(2, vec![1], false), Queued::Kept);
        assert_eq!(queues.send(2, vec![0; PEER_QUEUE_BYTES_MAX + 1], true), Queued::Dropped { snapshot: false });
        assert!(queues.next(2).await.is_snapshot);
    }

    #[tokio::test]
    async fn a_waiting_connection_wakes_up_for_a_frame() {
        let mut queues = PeerQueues::default();
        let reader = queues.clone();
        let waiting = tokio::spawn(async move { reader.next(2).await });
        tokio::task::yield_now().await;
        queues.send(2, vec![5], false);
        assert_eq!(waiting.await.unwrap().bytes, [5]);
    }
}
