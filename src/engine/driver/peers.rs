//! The other controllers, as this one's engine sees them: who is there, what their clocks say, and the leader, to whom requests are passed
//! on that only a leader can bring into the ledger.

use std::collections::{HashMap, HashSet};
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::model::NodeId;
use crate::mutation::{self, Mutation};
use crate::rpc::peer::{MembersWish, Proposed, Pulse};
use crate::rpc::wire::Refusal;
use crate::shutdown::Shutdown;

use super::handle::Inner;
use super::run_loop::reading;

/// How often each peer is asked for its pulse.
const PULSE_EVERY: Duration = Duration::from_secs(1);
/// The same while this node's clock is not proved.
const PULSE_SOON: Duration = Duration::from_millis(50);
/// An answer that takes longer doesn't count.
const PULSE_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer whose last pulse is older is not reachable.
const PULSE_FRESH_MS: i64 = 3_000;

/// Connections to the other controllers.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    async fn propose(&self, to: NodeId, commands: Vec<u8>) -> io::Result<Result<Proposed, Refusal>>;
    async fn change_members(&self, to: NodeId, wish: MembersWish) -> io::Result<Result<(), Refusal>>;
    async fn pulse(&self, of: NodeId) -> io::Result<Pulse>;
}

/// A cluster of one.
pub struct NobodyElse;

fn nobody<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::NotFound, "there is no other controller"))
}

#[async_trait]
impl Peers for NobodyElse {
    async fn propose(&self, _: NodeId, _: Vec<u8>) -> io::Result<Result<Proposed, Refusal>> {
        nobody()
    }
    async fn change_members(&self, _: NodeId, _: MembersWish) -> io::Result<Result<(), Refusal>> {
        nobody()
    }
    async fn pulse(&self, _: NodeId) -> io::Result<Pulse> {
        nobody()
    }
}

/// What was last heard of each other controller.
#[derive(Default)]
pub struct Pulses {
    heard: Mutex<HashMap<NodeId, Heard>>,
}

#[derive(Clone, Copy)]
pub struct Heard {
    pub at_boot_ms: i64,
    pub applied: u64,
}

impl Pulses {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Heard>> {
        // No code that can panic runs under this lock.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None: it was not heard lately.
    pub fn of(&self, id: NodeId, now_boot_ms: i64) -> Option<Heard> {
        self.lock().get(&id).copied().filter(|heard| now_boot_ms - heard.at_boot_ms <= PULSE_FRESH_MS)
    }
}

/// Asks all other members for their pulse, again and again. One that doesn't answer holds up no other.
pub async fn run(inner: Arc<Inner>, shutdown: Shutdown) {
    let (mut asked, mut busy) = (FuturesUnordered::new(), HashSet::new());
    while !shutdown.is_requested() {
        let status = inner.shared.status();
        let others: Vec<NodeId> = status.members.iter().map(|member| member.id).filter(|id| *id != status.node_id).collect();
        inner.pulses.lock().retain(|id, _| others.contains(id));
        for id in others.into_iter().filter(|id| busy.insert(*id)).collect::<Vec<_>>() {
            asked.push(ask(&inner, id));
        }
        // Until a majority has spoken this node is good for nothing.
        let pause = if inner.soft.is_clock_unproved() { PULSE_SOON } else { PULSE_EVERY };
        let mut pause = pin!(tokio::time::sleep(pause));
        loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                Some(id) = asked.next() => drop(busy.remove(&id)),
                () = inner.soft.samples_wanted() => break,
                () = &mut pause => break,
            }
        }
    }
}

/// What it says of its clock is as of half-way (PROTOCOL H2). Counted back from the answer: had the wall clock been set meanwhile, one that
/// was compared as it stood before would seem right (H3).
async fn ask(inner: &Inner, of: NodeId) -> NodeId {
    let sent = reading(&inner.clock);
    let Ok(Ok(pulse)) = tokio::time::timeout(PULSE_TIMEOUT, inner.peers.pulse(of)).await else { return of };
    let now = reading(&inner.clock);
    inner.pulses.lock().insert(of, Heard { at_boot_ms: now.boot_ms, applied: pulse.applied });
    let rtt_ms = now.boot_ms - sent.boot_ms;
    let wall = if mutation::is(Mutation::ComparesAsAsked) { sent.wall + rtt_ms } else { now.wall };
    inner.soft.sample_clock(of, pulse.now.since(wall).saturating_add(rtt_ms / 2), rtt_ms, now.boot_ms);
    if inner.soft.is_clock_unproved() {
        inner.shared.wake(); // it may be proved by this
    }
    of
}
