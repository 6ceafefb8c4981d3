//! Who connects to a controller, and what it gets: workers the engine, peers the consensus node and what they pass on.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpStream;

use crate::engine::driver::{EngineHandle, Peers};
use crate::model::NodeId;
use crate::peers::{CallError, PeerCalls, PeerRequests, PeerServer};
use crate::rpc::handshake::{Hello, Service};
use crate::rpc::peer::{MembersWish, Proposed, Pulse};
use crate::rpc::wire::Refusal;

use super::late::LateEngine;

/// The longest of the limits that the engine sets to its calls.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
const PULSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Takes connections from the first moment on. Until the engine is there, workers are sent away: they come again.
pub struct Gate {
    pub peers: PeerServer,
    late: Arc<LateEngine>,
}

impl Gate {
    pub fn new(late: Arc<LateEngine>) -> Gate {
        Gate { peers: PeerServer::default(), late }
    }

    /// Serves one connection until it ends.
    pub async fn serve(self: Arc<Gate>, hello: Hello, stream: TcpStream) {
        match hello.service {
            Service::Controller => {
                if let Some(engine) = self.late.engine() {
                    engine.serve_worker(stream).await;
                }
            }
            Service::Peer | Service::PeerSnapshots => self.peers.serve(stream).await,
            Service::Worker => {}
        }
    }
}

/// What peers may ask of this engine.
pub struct ForPeers(pub EngineHandle);

#[async_trait]
impl PeerRequests for ForPeers {
    async fn propose(&self, commands: Vec<u8>) -> Result<Proposed, Refusal> {
        self.0.propose_for_peer(&commands).await
    }
    async fn change_members(&self, change: MembersWish) -> Result<(), Refusal> {
        self.0.change_members_for_peer(change).await
    }
    fn pulse(&self) -> Pulse {
        self.0.pulse()
    }
}

/// What this engine asks of its peers.
pub struct ToPeers(pub PeerCalls);

fn answer<T>(result: Result<T, CallError>) -> io::Result<Result<T, Refusal>> {
    match result {
        Ok(answer) => Ok(Ok(answer)),
        Err(CallError::Refused { refusal, .. }) => Ok(Err(refusal)),
        Err(error) => Err(io::Error::other(error)),
    }
}

#[async_trait]
impl Peers for ToPeers {
    async fn propose(&self, to: NodeId, commands: Vec<u8>) -> io::Result<Result<Proposed, Refusal>> {
        answer(self.0.propose(to, CALL_TIMEOUT, commands).await)
    }
    async fn change_members(&self, to: NodeId, wish: MembersWish) -> io::Result<Result<(), Refusal>> {
        answer(self.0.change_members(to, CALL_TIMEOUT, wish).await)
    }
    async fn pulse(&self, of: NodeId) -> io::Result<Pulse> {
        self.0.pulse(of, PULSE_TIMEOUT).await.map_err(io::Error::other)
    }
}
