//! The way out: for each peer a connection for frames and, when needed, one for a snapshot.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_bytes::ByteBuf;
use tokio_util::task::AbortOnDropHandle;

use super::node::Node;
use super::{Addresses, client, peers_of, snapshots};
use crate::consensus::PeerQueues;
use crate::model::NodeId;
use crate::rpc::PeerClient;
use crate::rpc::dial::TcpDial;
use crate::rpc::handshake::Service;
use crate::rpc::link::{Backoff, Connection, Dial};
use crate::rpc::peer::FRAMES_BYTES_MAX;

/// Calls under way to one peer, at most; tarpc's own queue has room for 100.
const CALLS_MAX: usize = 64;
/// Bytes under way to one peer, roughly, at most.
const BYTES_UNDER_WAY_MAX: usize = 2 * FRAMES_BYTES_MAX;
/// A call that takes longer has broken its connection; on a slow line each mebibyte under way gets as long again.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that lived so long was a good one: the next attempt comes soon.
const GOOD_CONNECTION: Duration = Duration::from_secs(1);

/// Keeps connections to all peers, whoever they are at the time. Dropping it ends them.
pub struct PeerLinks {
    _supervisor: AbortOnDropHandle<()>,
}

impl PeerLinks {
    /// Carries what `queues` hold. `configured` says where peers are until the node knows its members: one that is to be added must be able
    /// to answer.
    pub fn start(own: NodeId, configured: Addresses, queues: PeerQueues, node: Arc<dyn Node>, dial: &TcpDial) -> PeerLinks {
        let ways = Ways { queues, node, frames: dial.to(Service::Peer), snapshots: dial.to(Service::PeerSnapshots) };
        PeerLinks { _supervisor: AbortOnDropHandle::new(tokio::spawn(supervise(own, configured, ways))) }
    }
}

/// What all links share.
#[derive(Clone)]
struct Ways {
    queues: PeerQueues,
    node: Arc<dyn Node>,
    frames: Arc<dyn Dial>,
    snapshots: Arc<dyn Dial>,
}

/// One link for each peer at its present address.
async fn supervise(own: NodeId, configured: Addresses, ways: Ways) {
    let mut members = ways.queues.watch_members();
    let mut links: BTreeMap<NodeId, (String, AbortOnDropHandle<()>)> = BTreeMap::new();
    loop {
        let peers = peers_of(own, &members.borrow_and_update(), &configured);
        links.retain(|id, (address, _)| peers.get(id) == Some(address));
        for (id, address) in peers {
            links.entry(id).or_insert_with(|| {
                let link = Link { peer: id, address: address.clone(), ways: ways.clone() };
                (address, AbortOnDropHandle::new(tokio::spawn(link.run())))
            });
        }
        // The sender lives with the queues that are held here.
        let _ = members.changed().await;
    }
}

pub(super) struct Link {
    pub peer: NodeId,
    pub address: String,
    ways: Ways,
}

impl Link {
    async fn run(self) {
        tokio::join!(self.carry_frames(), self.carry_snapshots());
    }

    async fn carry_snapshots(&self) {
        let Ways { queues, node, snapshots, .. } = &self.ways;
        let (peer, mut backoff) = (self.peer, Backoff::default());
        loop {
            let frame = queues.next_snapshot(peer).await;
            let bytes = frame.len();
            match snapshots::send(frame, &**snapshots, &self.address).await {
                Ok(()) => {
                    log::info!("sent a snapshot of {} KiB to node {peer}", bytes / 1024);
                    backoff.reset();
                    node.report_snapshot(peer, true);
                }
                Err(error) => {
                    log::warn!("a snapshot of {} KiB did not reach node {peer} at {}: {error}", bytes / 1024, self.address);
                    // Raft sends another one as soon as it hears of it.
                    backoff.wait().await;
                    node.report_snapshot(peer, false);
                }
            }
        }
    }

    async fn carry_frames(&self) {
        let Ways { queues, node, frames, .. } = &self.ways;
        let (peer, address) = (self.peer, &self.address);
        let (mut backoff, mut is_said) = (Backoff::default(), false);
        loop {
            match frames.dial(address).await {
                Ok(connection) => {
                    log::debug!("connected to node {peer} at {address}");
                    let since = Instant::now();
                    let reason = self.converse(connection).await;
                    node.report_unreachable(peer);
                    log::warn!("the connection to node {peer} at {address} broke: {reason}");
                    is_said = false;
                    if since.elapsed() >= GOOD_CONNECTION {
                        backoff.reset();
                    }
                }
                Err(error) => {
                    // What waits is stale by the time that the peer is back.
                    if queues.discard_frames(peer) {
                        node.report_unreachable(peer);
                    }
                    let level = if std::mem::replace(&mut is_said, true) { log::Level::Debug } else { log::Level::Warn };
                    log::log!(level, "node {peer} at {address} can't be reached, trying on: {error}");
                }
            }
            backoff.wait().await;
        }
    }

    /// Sends frames until the connection breaks, and says why it did.
    async fn converse(&self, connection: Connection) -> String {
        let (client, ended) = client(connection);
        let mut ended = pin!(ended);
        let mut calls = FuturesUnordered::new();
        let mut bytes_under_way = 0;
        loop {
            let has_room = calls.len() < CALLS_MAX && bytes_under_way < BYTES_UNDER_WAY_MAX;
            tokio::select! {
                reason = &mut ended => return reason,
                Some((bytes, result)) = calls.next(), if !calls.is_empty() => {
                    bytes_under_way -= bytes;
                    if let Err(error) = result {
                        return format!("a call failed: {error}");
                    }
                }
                frames = self.ways.queues.next_frames(self.peer, FRAMES_BYTES_MAX), if has_room => {
                    let bytes: usize = frames.iter().map(Vec::len).sum();
                    bytes_under_way += bytes;
                    let mut call = Box::pin(call(client.clone(), frames, bytes, bytes_under_way));
                    // The first poll hands the call to the connection: it must happen here, for the next batch is not to overtake it. It
                    // is not ready, as this task drives the connection, unless that has ended.
                    match futures::poll!(call.as_mut()) {
                        Poll::Pending => calls.push(call),
                        Poll::Ready(_) => return "it has ended".to_owned(),
                    }
                }
            }
        }
    }
}

async fn call(client: PeerClient, frames: Vec<Vec<u8>>, bytes: usize, under_way: usize) -> (usize, Result<(), tarpc::client::RpcError>) {
    let mut context = tarpc::context::current();
    context.deadline = Instant::now() + CALL_TIMEOUT + CALL_TIMEOUT * (under_way >> 20) as u32;
    (bytes, client.frames(context, frames.into_iter().map(ByteBuf::from).collect()).await)
}
