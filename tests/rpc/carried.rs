//! What the connections do with frames and snapshots, seen by nodes that only take notes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono_flow::consensus::{Member, MemberRole, PeerQueues, Queued, Status, Transport};
use chrono_flow::model::{ClusterId, NodeId, UnixMs};
use chrono_flow::peers::{Node, PeerLinks, PeerRequests, PeerServer};
use chrono_flow::rpc::dial::TcpDial;
use chrono_flow::rpc::handshake::{Name, Service};
use chrono_flow::rpc::listen::Listener;
use chrono_flow::rpc::peer::{MembersWish, Proposed, Pulse};
use chrono_flow::rpc::wire::Refusal;
use tokio::sync::watch;

use crate::proxy::Proxy;
use crate::support::{CLUSTER, until};

#[derive(Default)]
struct Notes {
    frames: Mutex<Vec<Vec<u8>>>,
    unreachable: Mutex<u32>,
    snapshots: Mutex<Vec<(NodeId, bool)>>,
    is_full: AtomicBool,
}

impl Node for Notes {
    fn cluster(&self) -> ClusterId {
        CLUSTER
    }
    fn status(&self) -> watch::Receiver<Status> {
        watch::Sender::new(Status::default()).subscribe()
    }
    fn receive(&self, frame: Vec<u8>) -> bool {
        let is_full = self.is_full.load(Ordering::Relaxed);
        if !is_full {
            self.frames.lock().unwrap().push(frame);
        }
        !is_full
    }
    fn report_unreachable(&self, _: NodeId) {
        *self.unreachable.lock().unwrap() += 1;
    }
    fn report_snapshot(&self, peer: NodeId, arrived: bool) {
        self.snapshots.lock().unwrap().push((peer, arrived));
    }
}

struct NoEngine;

#[async_trait]
impl PeerRequests for NoEngine {
    async fn propose(&self, _: Vec<u8>) -> Result<Proposed, Refusal> {
        Err(Refusal::NotLeader { leader: None })
    }
    async fn change_members(&self, _: MembersWish) -> Result<(), Refusal> {
        Err(Refusal::NotLeader { leader: None })
    }
    fn pulse(&self) -> Pulse {
        Pulse { now: UnixMs(0), applied: 0 }
    }
}

/// Node 1 sends, node 2 takes, a proxy between them.
struct Way {
    queues: PeerQueues,
    sender: Arc<Notes>,
    receiver: Arc<Notes>,
    proxy: Proxy,
    _links: PeerLinks,
}

impl Way {
    async fn new() -> Way {
        let listener = Listener::bind("127.0.0.1:0", None).await.unwrap();
        let proxy = Proxy::new(listener.local_addr().unwrap().to_string()).await;
        let (sender, receiver) = (Arc::new(Notes::default()), Arc::new(Notes::default()));
        let server = PeerServer::default();
        server.open(receiver.clone(), Arc::new(NoEngine));
        let serve = move |_, stream| {
            let server = server.clone();
            async move { server.serve(stream).await }
        };
        let cluster = watch::Sender::new(Some(CLUSTER));
        let dial = TcpDial::new(None, cluster.subscribe(), Name::Controller(1));
        let services = &[Service::Peer, Service::PeerSnapshots];
        tokio::spawn(async move { listener.run(services, cluster.subscribe(), serve, std::future::pending()).await });
        let queues = PeerQueues::default();
        let configured = BTreeMap::from([(2, proxy.address.clone())]);
        let links = PeerLinks::start(1, configured, queues.clone(), sender.clone(), &dial);
        Way { queues, sender, receiver, proxy, _links: links }
    }

    fn received(&self) -> usize {
        self.receiver.frames.lock().unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_arrive_in_the_order_in_which_they_were_sent() {
    const FRAMES: usize = 20_000;
    let way = Way::new().await;
    let mut queues = way.queues.clone();
    let mut sent = 0;
    while sent < FRAMES {
        if sent - way.received() > 500 {
            tokio::task::yield_now().await;
            continue;
        }
        // Now and then one that fills a call of its own.
        let mut frame = sent.to_le_bytes().to_vec();
        frame.resize(if sent % 2_000 == 1_999 { 5 << 20 } else { 50 }, 0);
        assert_eq!(queues.send(2, frame, false), Queued::Kept);
        sent += 1;
    }
    until("all frames", async || way.received() == FRAMES).await;
    let frames = way.receiver.frames.lock().unwrap();
    for (number, frame) in frames.iter().enumerate() {
        assert_eq!(frame[..8], number.to_le_bytes(), "frame {number} is out of order");
    }
    assert_eq!(*way.sender.unreachable.lock().unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_reported_and_frames_go_on_in_order_behind_the_gap() {
    let way = Way::new().await;
    let mut queues = way.queues.clone();
    queues.send(2, vec![1], false);
    until("the first frame", async || way.received() == 1).await;
    way.proxy.cut();
    until("the report", async || *way.sender.unreachable.lock().unwrap() > 0).await;
    way.proxy.heal();
    let mut number = 1u32;
    until("another frame", async || {
        number += 1;
        queues.send(2, number.to_le_bytes().to_vec(), false);
        way.received() > 10
    })
    .await;
    let frames = way.receiver.frames.lock().unwrap();
    let numbers: Vec<u32> = frames[1..].iter().map(|frame| u32::from_le_bytes(frame[..].try_into().unwrap())).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_snapshot_is_reported_in_any_case() {
    let way = Way::new().await;
    let mut queues = way.queues.clone();
    let snapshot: Vec<u8> = (0..5_000_000u32).map(|number| (number / 7) as u8).collect();
    let reported = async |expected: &[(NodeId, bool)]| {
        until("a report", async || way.sender.snapshots.lock().unwrap().len() == expected.len()).await;
        assert_eq!(*way.sender.snapshots.lock().unwrap(), expected);
    };
    queues.send(2, snapshot.clone(), true);
    reported(&[(2, true)]).await;
    assert!(way.receiver.frames.lock().unwrap()[0] == snapshot, "put together as it was");

    way.receiver.is_full.store(true, Ordering::Relaxed);
    queues.send(2, snapshot.clone(), true);
    reported(&[(2, true), (2, false)]).await;
    way.receiver.is_full.store(false, Ordering::Relaxed);

    way.proxy.cut();
    queues.send(2, snapshot.clone(), true);
    reported(&[(2, true), (2, false), (2, false)]).await;
    way.proxy.heal();
    queues.send(2, snapshot, true);
    reported(&[(2, true), (2, false), (2, false), (2, true)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_follow_the_members_and_their_addresses() {
    let way = Way::new().await;
    let member =
        |address: &str| Member { id: 2, address: address.to_owned(), role: MemberRole::Voter, store: None, reachable: false, applied: 0 };
    let mut queues = way.queues.clone();
    queues.send(2, vec![1], false);
    until("a frame", async || way.received() == 1).await;
    queues.members(&[member("127.0.0.1:1")]);
    until("the old connection to go", async || {
        queues.send(2, vec![2], false);
        *way.sender.unreachable.lock().unwrap() > 0
    })
    .await;
    let before = way.received();
    queues.members(&[member(&way.proxy.address)]);
    until("the new one", async || {
        queues.send(2, vec![3], false);
        way.received() > before
    })
    .await;
}
