//! What a controller does for its peers.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use serde_bytes::ByteBuf;
use tarpc::context::Context;
use tarpc::server::{BaseChannel, Channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::node::Node;
use super::snapshots::Assembly;
use crate::consensus::{MemberRole, Status};
use crate::model::NodeId;
use crate::rpc::Peer;
use crate::rpc::codec::serving;
use crate::rpc::link::Io;
use crate::rpc::peer::{AskerStanding, MembersWish, PEER_CALL_BYTES_MAX, Proposed, Pulse, SnapshotChunk, Standing};
use crate::rpc::wire::Refusal;

/// Calls of one connection that are worked on at once, at most.
const CALLS_MAX: usize = 256;
/// Snapshots that come in at once, at most: only a leader sends them, and one connection may outlive its sender for a while.
const TRANSFERS_MAX: usize = 4;
/// A transfer whose next piece takes longer has ended.
const TRANSFER_IDLE: Duration = Duration::from_secs(30);

/// What peers ask of the engine.
#[async_trait]
pub trait PeerRequests: Send + Sync + 'static {
    /// Brings encoded commands into the ledger, as leader.
    async fn propose(&self, commands: Vec<u8>) -> Result<Proposed, Refusal>;
    async fn change_members(&self, change: MembersWish) -> Result<(), Refusal>;
    fn pulse(&self) -> Pulse;
}

/// Serves peers from the first moment on; until it is opened, this controller's directory counts as empty. Clones are the same server.
#[derive(Clone)]
pub struct PeerServer {
    open: Arc<OnceLock<Open>>,
    transfers: Arc<Semaphore>,
}

struct Open {
    node: Arc<dyn Node>,
    requests: Arc<dyn PeerRequests>,
}

impl Default for PeerServer {
    fn default() -> PeerServer {
        PeerServer { open: Arc::default(), transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)) }
    }
}

impl PeerServer {
    /// The node runs: from now on it takes frames and requests. Only the first call counts.
    pub fn open(&self, node: Arc<dyn Node>, requests: Arc<dyn PeerRequests>) {
        let _ = self.open.set(Open { node, requests });
    }

    /// Serves one connection, of either kind, until it ends.
    pub async fn serve(&self, io: impl Io) {
        let channel = BaseChannel::with_defaults(serving(io, PEER_CALL_BYTES_MAX)).max_concurrent_requests(CALLS_MAX);
        let service = Service { server: self.clone(), transfer: Arc::default() };
        let mut calls = std::pin::pin!(channel.execute(service.clone().serve()));
        let mut running = JoinSet::new();
        loop {
            let call = if service.is_receiving() {
                tokio::time::timeout(TRANSFER_IDLE, calls.next()).await.unwrap_or(None)
            } else {
                calls.next().await
            };
            let Some(call) = call else { return };
            while running.try_join_next().is_some() {}
            // Polled once right here: frames and pieces of snapshots are done then, in the order in which they came.
            let mut call = Box::pin(call);
            if futures::poll!(call.as_mut()).is_pending() {
                running.spawn(call);
            }
        }
    }

    fn opened(&self) -> Result<&Open, Refusal> {
        self.open.get().ok_or_else(|| Refusal::Busy { what: "this controller has not started its ledger yet".into() })
    }
}

/// One connection's side of the service.
#[derive(Clone)]
struct Service {
    server: PeerServer,
    transfer: Arc<Mutex<Transfer>>,
}

#[derive(Default)]
struct Transfer {
    assembly: Assembly,
    place: Option<OwnedSemaphorePermit>,
}

impl Service {
    fn is_receiving(&self) -> bool {
        // A panic in the code under this lock leaves a transfer that its next piece ends.
        self.transfer.lock().unwrap_or_else(PoisonError::into_inner).place.is_some()
    }

    fn take_chunk(&self, chunk: SnapshotChunk) -> Result<(), Refusal> {
        let open = self.server.opened()?;
        let mut transfer = self.transfer.lock().unwrap_or_else(PoisonError::into_inner);
        if transfer.place.is_none() {
            let place = self.server.transfers.clone().try_acquire_owned();
            transfer.place = Some(place.map_err(|_| Refusal::Busy { what: "other snapshots are coming in".into() })?);
        }
        let whole = transfer.assembly.add(chunk);
        if transfer.assembly.is_empty() {
            transfer.place = None;
        }
        let is_taken = whole?.is_none_or(|frame| open.node.receive(frame));
        if is_taken { Ok(()) } else { Err(Refusal::Busy { what: "the node's inbox is full".into() }) }
    }
}

impl Peer for Service {
    async fn frames(self, _: Context, frames: Vec<ByteBuf>) {
        // Before the founding nobody knows this node as a member; what comes is dropped, as Raft allows.
        let Some(open) = self.server.open.get() else { return };
        for frame in frames {
            open.node.receive(frame.into_vec());
        }
    }

    async fn snapshot(self, _: Context, chunk: SnapshotChunk) -> Result<(), Refusal> {
        self.take_chunk(chunk)
    }

    async fn standing(self, _: Context, asker: NodeId) -> Standing {
        let Some(open) = self.server.open.get() else { return Standing::Empty };
        // A node that knows no members yet has nothing to say: the asker gets no answer, and asks again.
        let mut status = open.node.status();
        let known = status.wait_for(|status| !status.members.is_empty()).await.ok().map(|status| asker_standing(&status, asker));
        match known {
            Some(asker) => Standing::Founded { cluster: open.node.cluster(), asker },
            // The node has stopped.
            None => std::future::pending().await,
        }
    }

    async fn propose(self, _: Context, commands: ByteBuf) -> Result<Proposed, Refusal> {
        self.server.opened()?.requests.propose(commands.into_vec()).await
    }

    async fn change_members(self, _: Context, change: MembersWish) -> Result<(), Refusal> {
        self.server.opened()?.requests.change_members(change).await
    }

    async fn pulse(self, _: Context) -> Pulse {
        let nothing_yet = || Pulse { now: crate::clock::wall_now(), applied: 0 };
        self.server.open.get().map_or_else(nothing_yet, |open| open.requests.pulse())
    }
}

/// What this member knows of the one that asks (PROTOCOL G1). A voter that was never heard from can only be a founder: every other member
/// was a learner first.
fn asker_standing(status: &Status, asker: NodeId) -> AskerStanding {
    match status.members.iter().find(|member| member.id == asker) {
        Some(member) => match (member.store, member.role) {
            (Some(store), _) => AskerStanding::Known { store },
            (None, MemberRole::Voter) => AskerStanding::Founder,
            (None, MemberRole::Learner) => AskerStanding::Newcomer,
        },
        None => AskerStanding::Newcomer,
    }
}
