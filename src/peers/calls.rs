//! What this controller asks of its peers: one connection to each, opened when it is needed and kept.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_bytes::ByteBuf;
use tarpc::client::RpcError;
use tarpc::context::{self, Context};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{Addresses, client, peers_of};
use crate::model::NodeId;
use crate::rpc::PeerClient;
use crate::rpc::link::Dial;
use crate::rpc::peer::{MembersWish, Proposed, Pulse};
use crate::rpc::wire::Refusal;

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Surely not done.
    #[error("node {0} is no member that this controller knows")]
    Unknown(NodeId),
    /// Surely not done.
    #[error("node {peer} can't be reached: {error}")]
    Unreachable { peer: NodeId, error: io::Error },
    /// It may have been done.
    #[error("the connection to node {peer} broke: {error}")]
    Broken { peer: NodeId, error: RpcError },
    /// Surely not done, unless the refusal says otherwise.
    #[error("node {peer} refused: {refusal}")]
    Refused { peer: NodeId, refusal: Refusal },
}

/// Clones share the connections.
#[derive(Clone)]
pub struct PeerCalls {
    own: NodeId,
    configured: Arc<Addresses>,
    members: watch::Receiver<Addresses>,
    dial: Arc<dyn Dial>,
    places: Arc<Mutex<HashMap<NodeId, Place>>>,
}

/// Where the connection to one peer is kept; locked while it is opened.
type Place = Arc<tokio::sync::Mutex<Option<Open>>>;

struct Open {
    client: PeerClient,
    address: String,
    has_ended: Arc<AtomicBool>,
    _driver: AbortOnDropHandle<()>,
}

impl PeerCalls {
    /// `members` as `PeerQueues::watch_members` has them, `configured` for the time before there are any; `dial` is for `Service::Peer`.
    pub fn new(own: NodeId, configured: Addresses, members: watch::Receiver<Addresses>, dial: Arc<dyn Dial>) -> PeerCalls {
        PeerCalls { own, configured: Arc::new(configured), members, dial, places: Arc::default() }
    }

    /// Has commands proposed by `peer`, the leader.
    pub async fn propose(&self, peer: NodeId, limit: Duration, commands: Vec<u8>) -> Result<Proposed, CallError> {
        let commands = ByteBuf::from(commands);
        let answer = self.call(peer, limit, |client, context| async move { client.propose(context, commands).await }).await?;
        answer.map_err(|refusal| CallError::Refused { peer, refusal })
    }

    pub async fn change_members(&self, peer: NodeId, limit: Duration, change: MembersWish) -> Result<(), CallError> {
        let answer = self.call(peer, limit, |client, context| async move { client.change_members(context, change).await }).await?;
        answer.map_err(|refusal| CallError::Refused { peer, refusal })
    }

    pub async fn pulse(&self, peer: NodeId, limit: Duration) -> Result<Pulse, CallError> {
        self.call(peer, limit, |client, context| async move { client.pulse(context).await }).await
    }

    /// Calls `peer` within `limit`, connecting included. A call that fails gives its connection up, for nothing on it can be trusted to
    /// arrive.
    pub async fn call<T, F>(&self, peer: NodeId, limit: Duration, call: impl FnOnce(PeerClient, Context) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, RpcError>>,
    {
        let deadline = Instant::now() + limit;
        let late = || Err(io::Error::new(io::ErrorKind::TimedOut, "connecting took too long"));
        let connecting = tokio::time::timeout_at(deadline.into(), self.client(peer)).await.unwrap_or_else(|_| late());
        let (client, has_ended) = connecting.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CallError::Unknown(peer),
            _ => CallError::Unreachable { peer, error },
        })?;
        let mut context = context::current();
        context.deadline = deadline;
        call(client, context).await.map_err(|error| {
            has_ended.store(true, Ordering::Relaxed);
            CallError::Broken { peer, error }
        })
    }

    async fn client(&self, peer: NodeId) -> io::Result<(PeerClient, Arc<AtomicBool>)> {
        let peers = peers_of(self.own, &self.members.borrow(), &self.configured);
        let place = {
            // No code that can panic runs under this lock.
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            places.retain(|id, _| peers.contains_key(id));
            match peers.get(&peer) {
                Some(_) => places.entry(peer).or_default().clone(),
                None => return Err(io::ErrorKind::NotFound.into()),
            }
        };
        let address = &peers[&peer];
        let mut place = place.lock().await;
        let usable = place.take().filter(|open| open.address == *address && !open.has_ended.load(Ordering::Relaxed));
        let open = match usable {
            Some(open) => open,
            None => Open::new(&*self.dial, address).await?,
        };
        let open = place.insert(open);
        Ok((open.client.clone(), open.has_ended.clone()))
    }
}

impl Open {
    async fn new(dial: &dyn Dial, address: &str) -> io::Result<Open> {
        let (client, ended) = client(dial.dial(address).await?);
        let has_ended = Arc::new(AtomicBool::new(false));
        let flag = has_ended.clone();
        let driver = tokio::spawn(async move {
            ended.await;
            flag.store(true, Ordering::Relaxed);
        });
        Ok(Open { client, address: address.to_owned(), has_ended, _driver: AbortOnDropHandle::new(driver) })
    }
}
