//! What a controller reaches by calls: its peers, and what workers hold of outputs. Each call is a message that may never be answered.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono_flow::consensus::{Member, Queued, Transport};
use chrono_flow::engine::driver::{Peers, Spools};
use chrono_flow::ledger::Session;
use chrono_flow::model::NodeId;
use chrono_flow::rpc::peer::{MembersWish, Proposed, Pulse};
use chrono_flow::rpc::wire::{OutputPage, ReadOutput, Refusal};
use tokio::sync::oneshot;

use crate::network::{Message, PeerAsk, PeerTold, Place};

/// Messages that go out, and calls that wait for their answers. Clones are the same.
#[derive(Clone, Default)]
pub struct Outside(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    next_call: u64,
    outgoing: Vec<(Place, Message)>,
    waiting: BTreeMap<u64, oneshot::Sender<PeerTold>>,
}

impl Outside {
    pub fn send(&self, to: Place, message: Message) {
        self.0.lock().unwrap().outgoing.push((to, message));
    }

    pub fn take(&self) -> Vec<(Place, Message)> {
        std::mem::take(&mut self.0.lock().unwrap().outgoing)
    }

    pub fn answered(&self, call: u64, told: PeerTold) {
        if let Some(waiting) = self.0.lock().unwrap().waiting.remove(&call) {
            let _ = waiting.send(told);
        }
    }

    async fn call(&self, to: Place, ask: PeerAsk) -> io::Result<PeerTold> {
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.0.lock().unwrap();
            state.next_call += 1;
            let call = state.next_call;
            state.waiting.insert(call, answer);
            state.outgoing.push((to, Message::PeerAsk { call, ask }));
        }
        match answered.await {
            Ok(PeerTold::Nothing) | Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
            Ok(told) => Ok(told),
        }
    }
}

fn odd() -> io::Error {
    io::Error::other("an answer to something else")
}

#[async_trait]
impl Peers for Outside {
    async fn propose(&self, to: NodeId, commands: Vec<u8>) -> io::Result<Result<Proposed, Refusal>> {
        match self.call(Place::Controller(to), PeerAsk::Propose(commands)).await? {
            PeerTold::Proposed(answer) => Ok(answer),
            _ => Err(odd()),
        }
    }

    async fn change_members(&self, to: NodeId, wish: MembersWish) -> io::Result<Result<(), Refusal>> {
        match self.call(Place::Controller(to), PeerAsk::Members(wish)).await? {
            PeerTold::Members(answer) => Ok(answer),
            _ => Err(odd()),
        }
    }

    async fn pulse(&self, of: NodeId) -> io::Result<Pulse> {
        match self.call(Place::Controller(of), PeerAsk::Pulse).await? {
            PeerTold::Pulse(pulse) => Ok(pulse),
            _ => Err(odd()),
        }
    }
}

#[async_trait]
impl Spools for Outside {
    async fn read(&self, session: &Session, request: ReadOutput, patience: Duration) -> Result<OutputPage, Refusal> {
        let away = |error: &dyn std::fmt::Display| Refusal::Failed(format!("worker {} can't be asked: {error}", session.worker));
        let index: usize = session.address.parse().expect("a worker's address is its number");
        let calling = self.call(Place::Worker(index), PeerAsk::Read(request));
        match tokio::time::timeout(patience, calling).await {
            Ok(Ok(PeerTold::Page(page))) => page,
            Ok(Ok(_)) => Err(away(&odd())),
            Ok(Err(error)) => Err(away(&error)),
            Err(late) => Err(away(&late)),
        }
    }
}

/// Raft's frames go the same way.
impl Transport for Outside {
    fn send(&mut self, to: NodeId, frame: Vec<u8>, is_snapshot: bool) -> Queued {
        Outside::send(self, Place::Controller(to), Message::Frame { bytes: frame, is_snapshot });
        Queued::Kept
    }

    fn members(&mut self, _: &[Member]) {}
}
