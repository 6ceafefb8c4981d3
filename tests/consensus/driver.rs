//! The real thread and the handle.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use chrono_flow::consensus::{
    Applied, Handle, NoPeers, NodeConfig, PeerQueues, ProposeError, ReadError, RequestError, StateMachine, Status, start, start_on,
};
use tempfile::TempDir;

use crate::disk::MemoryDisk;
use crate::machine::Recorder;
use crate::sim::{CLUSTER, config};

fn config_in(dir: &TempDir) -> NodeConfig {
    NodeConfig::new(1, dir.path().join("consensus"), CLUSTER, [(1, "node-1:1".to_owned())].into())
}

/// Waits for a status; a test that waits in vain fails.
async fn status_of<O: Send + 'static>(node: &Handle<O>, what: &str, is_it: impl FnMut(&Status) -> bool) -> Status {
    let mut status = node.status();
    let found = tokio::time::timeout(Duration::from_secs(60), status.wait_for(is_it)).await;
    found.unwrap_or_else(|_| panic!("not within a minute: {what}")).unwrap_or_else(|_| panic!("stopped before: {what}")).clone()
}

#[tokio::test]
async fn one_node_leads_applies_reads_stops_and_comes_back() {
    let dir = TempDir::new().unwrap();
    let node = start(config_in(&dir), Recorder::default(), NoPeers).unwrap();
    let status = status_of(&node, "leading", |status| status.first_own_applied).await;
    assert_eq!((status.leader, status.node_id), (Some(1), 1));
    let first = node.propose(b"one".to_vec()).await.unwrap();
    let second = node.propose(b"two".to_vec()).await.unwrap();
    assert_eq!((first.outcome, second.outcome), (0, 1));
    assert!(second.index > first.index && second.term == status.term);
    assert!(node.read_index().await.unwrap() >= second.index);
    assert_eq!(node.confirm_leader().await.unwrap().leader_term, Some(status.term));
    node.stop().await;
    node.stop().await;
    assert_eq!(node.propose(vec![1]).await, Err(ProposeError::Stopped));
    assert_eq!(node.read_index().await, Err(ReadError::Stopped));
    assert_eq!(node.transfer_leadership(None).await, Err(RequestError::Stopped));
    assert!(node.status().has_changed().is_err(), "the channel is closed");
    assert_eq!(node.status().borrow().failed, None);

    let node = start(config_in(&dir), Recorder::default(), NoPeers).unwrap();
    // A group of one elects itself in its first turn, before it takes mail.
    assert_eq!(node.propose(b"three".to_vec()).await.unwrap().outcome, 2);
    node.stop().await;
}

#[tokio::test]
async fn many_proposers_at_once_all_get_an_answer_of_their_own() {
    let dir = TempDir::new().unwrap();
    let node = start(config_in(&dir), Recorder::default(), NoPeers).unwrap();
    status_of(&node, "leading", |status| status.first_own_applied).await;
    let all = futures::future::join_all((0..500u32).map(|number| node.propose(number.to_le_bytes().to_vec()))).await;
    let mut outcomes: Vec<usize> = all.into_iter().map(|result| result.unwrap().outcome).collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, (0..500).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test]
async fn a_command_too_large_is_refused_before_it_goes_anywhere() {
    let dir = TempDir::new().unwrap();
    let mut config = config_in(&dir);
    config.limits.command_bytes_max = 10;
    let node = start(config, Recorder::default(), NoPeers).unwrap();
    assert_eq!(node.propose(vec![0; 11]).await, Err(ProposeError::TooLarge { bytes: 11, bytes_max: 10 }));
    node.stop().await;
}

/// Holds the node's thread in `apply` until it is let go.
struct Held {
    entered: mpsc::Sender<()>,
    release: mpsc::Receiver<()>,
}

impl StateMachine for Held {
    type Outcome = ();
    fn apply(&mut self, _: u64, _: u64, command: &[u8]) {
        if command == b"hold" {
            self.entered.send(()).unwrap();
            self.release.recv().unwrap();
        }
        assert_ne!(command, b"panic", "as it was told to");
    }
    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        Box::new(Vec::new)
    }
    fn restore(&mut self, _: u64, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
    fn publish(&mut self, _: &Status) {}
}

#[tokio::test]
async fn a_full_inbox_says_busy_and_stays_open_for_messages_and_the_stop() {
    let dir = TempDir::new().unwrap();
    let mut config = config_in(&dir);
    config.limits.inbox_proposals_max = 3;
    let (entered_sender, entered) = mpsc::channel();
    let (release, release_receiver) = mpsc::channel();
    let node = start(config, Held { entered: entered_sender, release: release_receiver }, NoPeers).unwrap();
    status_of(&node, "leading", |status| status.first_own_applied).await;
    let holder = tokio::spawn({
        let node = node.clone();
        async move { node.propose(b"hold".to_vec()).await }
    });
    tokio::task::spawn_blocking(move || entered.recv().unwrap()).await.unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move { node.propose(b"wait".to_vec()).await })
        })
        .collect();
    // The three are in as soon as a fourth is refused.
    let refused = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            tokio::task::yield_now().await;
            let one_more = futures::poll!(std::pin::pin!(node.propose(b"more".to_vec())));
            if let std::task::Poll::Ready(result) = one_more {
                return result;
            }
        }
    });
    assert_eq!(refused.await.unwrap(), Err(ProposeError::Busy));
    node.receive(vec![0; 40]);
    release.send(()).unwrap();
    assert!(holder.await.unwrap().is_ok());
    for proposal in waiting {
        let result = proposal.await.unwrap();
        assert!(result.is_ok() || result == Err(ProposeError::Busy), "{result:?}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_full_disk_ends_the_node_and_says_so_to_everyone() {
    let disk = MemoryDisk::default();
    let node = start_on(disk.clone(), config(1, &[1]), Recorder::default(), NoPeers).unwrap();
    status_of(&node, "leading", |status| status.first_own_applied).await;
    node.propose(vec![1]).await.unwrap();
    disk.set_broken(Some(28));
    assert_eq!(node.propose(vec![2]).await, Err(ProposeError::Unknown));
    let status = status_of(&node, "failing", |status| status.failed.is_some()).await;
    let text = status.failed.unwrap();
    assert!(text.contains("log.redb") && text.contains("no space left"), "{text}");
    node.stop().await;
    assert_eq!(node.propose(vec![3]).await, Err(ProposeError::Stopped));
}

#[tokio::test]
async fn a_panic_in_the_state_machine_ends_the_node_and_is_reported() {
    let (entered, _) = mpsc::channel();
    let (_, release) = mpsc::channel();
    let node = start_on(MemoryDisk::default(), config(1, &[1]), Held { entered, release }, NoPeers).unwrap();
    status_of(&node, "leading", |status| status.first_own_applied).await;
    assert_eq!(node.propose(b"panic".to_vec()).await, Err(ProposeError::Unknown));
    let status = status_of(&node, "failing", |status| status.failed.is_some()).await;
    assert!(status.failed.unwrap().contains("as it was told to"));
    node.stop().await;
}

/// Proposes to whoever leads, until it is applied. Only what surely was not applied is proposed again.
async fn commit(nodes: &BTreeMap<u64, Handle<usize>>, command: &[u8]) -> (u64, Applied<usize>) {
    loop {
        for (id, node) in nodes {
            match node.propose(command.to_vec()).await {
                Ok(applied) => return (*id, applied),
                Err(ProposeError::NotLeader { .. } | ProposeError::Lost) => tokio::task::yield_now().await,
                Err(error) => panic!("node {id}: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn three_threads_elect_replicate_hand_over_and_survive_the_leader() {
    let ids = [1, 2, 3];
    let mut nodes = BTreeMap::new();
    let mut queues = BTreeMap::new();
    for id in ids {
        let out = PeerQueues::default();
        queues.insert(id, out.clone());
        nodes.insert(id, start_on(MemoryDisk::default(), config(id, &ids), Recorder::default(), out).unwrap());
    }
    for (from, to) in ids.into_iter().flat_map(|from| ids.map(|to| (from, to))).filter(|(from, to)| from != to) {
        let (frames, receiver) = (queues[&from].clone(), nodes[&to].clone());
        tokio::spawn(async move {
            loop {
                for frame in frames.next_frames(to, 1 << 20).await {
                    receiver.receive(frame);
                }
            }
        });
        let (snapshots, receiver, sender) = (queues[&from].clone(), nodes[&to].clone(), nodes[&from].clone());
        tokio::spawn(async move {
            loop {
                let is_taken = receiver.receive(snapshots.next_snapshot(to).await);
                sender.report_snapshot(to, is_taken);
            }
        });
    }
    let (leader, applied) = commit(&nodes, b"hello").await;
    assert_eq!(applied.outcome, 0);
    for node in nodes.values() {
        status_of(node, "the entry everywhere", |status| status.applied >= applied.index).await;
    }
    // On a slow machine leadership may move by itself, or not in time: either way this node is to be without it in the end.
    while nodes[&leader].transfer_leadership(None).await == Err(RequestError::TimedOut) {}
    let gone = nodes.remove(&leader).unwrap();
    gone.stop().await;
    let (next, applied) = commit(&nodes, b"again").await;
    assert!(next != leader && applied.outcome == 1);
    for node in nodes.values() {
        status_of(node, "the entry everywhere", |status| status.applied >= applied.index).await;
        assert!(node.read_index().await.unwrap() >= applied.index);
    }
    for node in nodes.values() {
        node.stop().await;
    }
}
