//! The way out to the other members: frames as bytes, on one bounded queue a peer. A full queue drops its oldest frame, for Raft repeats
//! what matters. Raft waits for word of a snapshot: the connection that takes it reports what became of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

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

#[derive(Default)]
struct Queue {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The newest one; raft has no use for an older one.
    snapshot: Option<Vec<u8>>,
    /// Shared with whoever waits for frames, and for snapshots.
    has_frames: Arc<Notify>,
    has_snapshot: Arc<Notify>,
}

/// One queue a peer, filled by the node's thread and emptied by one task a connection. Snapshots wait apart, for they travel apart. Clones
/// share the queues.
#[derive(Clone, Default)]
pub struct PeerQueues {
    queues: Arc<Mutex<BTreeMap<NodeId, Queue>>>,
    members: watch::Sender<BTreeMap<NodeId, String>>,
}

impl PeerQueues {
    /// The next frames for `peer`, oldest first, as soon as there are some: as many as `bytes_max` allows, or a single larger one.
    pub async fn next_frames(&self, peer: NodeId, bytes_max: usize) -> Vec<Vec<u8>> {
        loop {
            let has_frames = {
                let mut queues = self.lock();
                let queue = queues.entry(peer).or_default();
                let frames = queue.take_frames(bytes_max);
                if !frames.is_empty() {
                    return frames;
                }
                Arc::clone(&queue.has_frames)
            };
            has_frames.notified().await;
        }
    }

    /// The next frame for `peer` that holds a snapshot, as soon as there is one.
    pub async fn next_snapshot(&self, peer: NodeId) -> Vec<u8> {
        loop {
            let has_snapshot = {
                let mut queues = self.lock();
                let queue = queues.entry(peer).or_default();
                if let Some(snapshot) = queue.snapshot.take() {
                    return snapshot;
                }
                Arc::clone(&queue.has_snapshot)
            };
            has_snapshot.notified().await;
        }
    }

    /// Drops the frames that wait for a peer that can't be reached. Says whether there were any.
    pub fn discard_frames(&self, peer: NodeId) -> bool {
        let mut queues = self.lock();
        let Some(queue) = queues.get_mut(&peer) else { return false };
        queue.bytes = 0;
        !std::mem::take(&mut queue.frames).is_empty()
    }

    /// The members and where they are, as the node knows them; nothing before its first turn, nor on one that waits to be added.
    pub fn watch_members(&self) -> watch::Receiver<BTreeMap<NodeId, String>> {
        self.members.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Queue>> {
        // No code that can panic runs under this lock.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn take_frames(&mut self, bytes_max: usize) -> Vec<Vec<u8>> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(frame) = self.frames.pop_front_if(|frame| bytes == 0 || bytes + frame.len() <= bytes_max) {
            bytes += frame.len();
            taken.push(frame);
        }
        self.bytes -= bytes;
        taken
    }
}

impl Transport for PeerQueues {
    fn send(&mut self, to: NodeId, bytes: Vec<u8>, is_snapshot: bool) -> Queued {
        let mut queues = self.lock();
        let queue = queues.entry(to).or_default();
        if is_snapshot {
            // What becomes of this one is reported; the one whose place it takes needs no word.
            queue.snapshot = Some(bytes);
            queue.has_snapshot.notify_one();
            return Queued::Kept;
        }
        let mut queued = Queued::Kept;
        while queue.frames.len() >= PEER_QUEUE_FRAMES_MAX || queue.bytes + bytes.len() > PEER_QUEUE_BYTES_MAX {
            let Some(oldest) = queue.frames.pop_front() else { break };
            queue.bytes -= oldest.len();
            queued = Queued::Dropped { snapshot: false };
        }
        queue.bytes += bytes.len();
        queue.frames.push_back(bytes);
        queue.has_frames.notify_one();
        queued
    }

    fn members(&mut self, members: &[Member]) {
        let is_member = |id: &NodeId| members.iter().any(|member| member.id == *id);
        let gone: Vec<Queue> = self.lock().extract_if(.., |id, _| !is_member(id)).map(|(_, queue)| queue).collect();
        for queue in gone {
            // Whoever waits goes on with the peer's next queue, should it come back.
            queue.has_frames.notify_one();
            queue.has_snapshot.notify_one();
        }
        self.members.send_replace(members.iter().map(|member| (member.id, member.address.clone())).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_drops_its_oldest_frame() {
        let mut queues = PeerQueues::default();
        for number in 0..PEER_QUEUE_FRAMES_MAX {
            assert_eq!(queues.send(2, vec![number as u8], false), Queued::Kept);
        }
        assert_eq!(queues.send(2, vec![7], false), Queued::Dropped { snapshot: false });
        assert_eq!(queues.next_frames(2, 1).await, [[1]], "the oldest went first");
        assert_eq!(queues.send(3, vec![9], false), Queued::Kept, "each peer has a queue of its own");
        assert!(queues.discard_frames(2) && !queues.discard_frames(2));
    }

    #[tokio::test]
    async fn a_frame_larger_than_the_queue_still_goes_alone() {
        let mut queues = PeerQueues::default();
        assert_eq!(queues.send(2, vec![1], false), Queued::Kept);
        assert_eq!(queues.send(2, vec![0; PEER_QUEUE_BYTES_MAX + 1], false), Queued::Dropped { snapshot: false });
        assert_eq!(queues.next_frames(2, 1).await[0].len(), PEER_QUEUE_BYTES_MAX + 1);
    }

    #[tokio::test]
    async fn frames_come_in_batches_in_order() {
        let mut queues = PeerQueues::default();
        for number in 0..5 {
            queues.send(2, vec![number; 10], false);
        }
        assert_eq!(queues.next_frames(2, 25).await, [[0; 10], [1; 10]]);
        assert_eq!(queues.next_frames(2, 5).await, [[2; 10]]);
        assert_eq!(queues.next_frames(2, 1000).await, [[3; 10], [4; 10]]);
    }

    #[tokio::test]
    async fn a_snapshot_waits_apart_and_a_newer_one_takes_its_place() {
        let mut queues = PeerQueues::default();
        queues.send(2, vec![1], true);
        queues.send(2, vec![2], false);
        queues.send(2, vec![3], true);
        assert_eq!(queues.next_frames(2, 1000).await, [[2]]);
        assert_eq!(queues.next_snapshot(2).await, [3]);
    }

    #[tokio::test]
    async fn a_waiting_connection_wakes_up_for_a_frame_even_of_a_peer_that_was_removed_and_came_back() {
        let mut queues = PeerQueues::default();
        let reader = queues.clone();
        let waiting = tokio::spawn(async move { (reader.next_frames(2, 1).await, reader.next_snapshot(2).await) });
        tokio::task::yield_now().await;
        queues.members(&[]);
        queues.send(2, vec![5], false);
        tokio::task::yield_now().await;
        queues.members(&[]);
        queues.send(2, vec![6], true);
        assert_eq!(waiting.await.unwrap(), (vec![vec![5]], vec![6]));
    }
}
