//! The loop itself: waits for whatever happens first, tells it to `Turns`, and does what that says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::consensus::{Applied, Handle, ProposeError};
use crate::engine::clock::Reading;
use crate::engine::core::Settings;
use crate::ledger::Reply;
use crate::model::{ClusterId, SessionId};
use crate::rpc::link::Dial;
use crate::shutdown::Shutdown;
use crate::store::Store;

use super::delivery::LinkEvent;
use super::handle::{EngineHandle, Inner};
use super::link::{Link, LinkConfig};
use super::machine::Shared;
use super::members::Members;
use super::outputs::{Connections, Outputs, Spools};
use super::peers::{Peers, Pulses};
use super::queue::{PROPOSALS_WAITING_MAX, Proposer, Request};
use super::soft::Soft;
use super::turns::{Todo, Turns};
use super::{feed, peers, recorder};

/// Answers of worker links that wait for the loop, at most; a link waits for its place.
const LINK_EVENTS_MAX: usize = 256;

/// What the engine is told at its start.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    pub cluster: ClusterId,
    pub settings: Settings,
    pub clock_skew_ms: i64,
    pub history_days: u32,
    pub history_runs: u64,
}

/// What the engine works with.
pub struct Surroundings {
    pub store: Arc<dyn Store>,
    pub consensus: Handle<Vec<Reply>>,
    pub shared: Arc<Shared>,
    pub spools: Arc<dyn Spools>,
    pub peers: Arc<dyn Peers>,
    pub clock: Clock,
}

/// An engine of which nothing runs yet.
pub struct Parts {
    pub handle: EngineHandle,
    pub turns: Turns,
    /// Requests for `turns`.
    pub inbox: mpsc::Receiver<Request>,
    /// The feed, the recorder and the pulses. They end when `shutdown` says so.
    pub background: Vec<BoxFuture<'static, ()>>,
}

pub fn assemble(config: EngineConfig, surroundings: Surroundings, shutdown: Shutdown) -> Parts {
    let Surroundings { store, consensus, shared, spools, peers, clock } = surroundings;
    let (requests, inbox) = mpsc::channel(PROPOSALS_WAITING_MAX);
    let soft = Arc::new(Soft::new(config.clock_skew_ms));
    let turns = Turns::new(config.clone(), shared.ledger(), shared.status(), soft.clone(), reading(&clock));
    let inner = Arc::new(Inner {
        cluster: config.cluster,
        store,
        consensus: consensus.clone(),
        outputs: Outputs::new(spools, shared.clone(), soft.clone(), config.cluster),
        shared,
        soft,
        proposer: Proposer(requests),
        members: Members::new(consensus),
        peers,
        pulses: Pulses::default(),
        clock,
    });
    let background: Vec<BoxFuture<'static, ()>> = vec![
        Box::pin(feed::run(inner.clone(), shutdown.clone())),
        Box::pin(peers::run(inner.clone(), shutdown.clone())),
        Box::pin(recorder::run(inner.clone(), config, shutdown)),
    ];
    Parts { handle: EngineHandle { inner }, turns, inbox, background }
}

/// Starts the loop, the feed and the recorder. They end when `shutdown` says so.
pub fn start(
    config: EngineConfig,
    store: Arc<dyn Store>,
    consensus: Handle<Vec<Reply>>,
    shared: Arc<Shared>,
    workers: Arc<dyn Dial>,
    peers: Arc<dyn Peers>,
    shutdown: Shutdown,
) -> (EngineHandle, Vec<JoinHandle<()>>) {
    let clock = Clock::default();
    let (events, from_links) = mpsc::channel(LINK_EVENTS_MAX);
    let links =
        LinkConfig { cluster: config.cluster, skew_ms: config.clock_skew_ms, workers: workers.clone(), events, clock: clock.clone() };
    let spools = Arc::new(Connections::new(workers, shared.clone()));
    let surroundings = Surroundings { store, consensus: consensus.clone(), shared: shared.clone(), spools, peers, clock: clock.clone() };
    let Parts { handle, turns, inbox, background } = assemble(config, surroundings, shutdown.clone());
    let driver = Driver { turns, shared, consensus, clock, in_flight: None, links: HashMap::new(), link_config: links };
    let mut tasks = vec![tokio::spawn(driver.run(inbox, from_links, shutdown))];
    tasks.extend(background.into_iter().map(tokio::spawn));
    (handle, tasks)
}

struct Driver {
    turns: Turns,
    shared: Arc<Shared>,
    consensus: Handle<Vec<Reply>>,
    clock: Clock,
    in_flight: Option<oneshot::Receiver<Landed>>,
    links: HashMap<SessionId, Link>,
    link_config: LinkConfig,
}

type Landed = Result<Applied<Vec<Reply>>, ProposeError>;

/// The result of the proposal in flight; never, if there is none.
async fn landed(in_flight: &mut Option<oneshot::Receiver<Landed>>) -> Landed {
    match in_flight {
        Some(result) => result.await.unwrap_or(Err(ProposeError::Unknown)),
        None => std::future::pending().await,
    }
}

pub fn reading(clock: &Clock) -> Reading {
    let now = clock.now();
    Reading { wall: now.wall, boot_ms: now.boot_ms as i64 }
}

impl Driver {
    async fn run(mut self, mut inbox: mpsc::Receiver<Request>, mut from_links: mpsc::Receiver<LinkEvent>, shutdown: Shutdown) {
        loop {
            let wake = Duration::from_millis(self.turns.wake_in_ms(reading(&self.clock)).max(0) as u64);
            tokio::select! {
                () = self.shared.changed() => self.on_changed(),
                result = landed(&mut self.in_flight) => {
                    self.in_flight = None;
                    // What was applied is published before it is answered.
                    self.on_changed();
                    self.turns.landed(result, reading(&self.clock));
                }
                Some(request) = inbox.recv(), if self.turns.has_room() => {
                    self.turns.request(request);
                    while self.turns.has_room() && let Ok(request) = inbox.try_recv() {
                        self.turns.request(request);
                    }
                }
                Some(event) = from_links.recv() => self.turns.link_event(event),
                () = tokio::time::sleep(wake) => {}
                () = shutdown.requested() => break,
            }
            let todo = self.turns.turn(reading(&self.clock));
            self.act(todo);
        }
        self.turns.stop();
    }

    fn on_changed(&mut self) {
        self.turns.changed(self.shared.take(), reading(&self.clock));
        let ledger = self.turns.ledger();
        self.links.retain(|session, _| ledger.session(*session).is_some());
    }

    fn act(&mut self, todo: Todo) {
        if todo.hand_over {
            let consensus = self.consensus.clone();
            tokio::spawn(async move {
                if let Err(error) = consensus.transfer_leadership(None).await {
                    log::warn!("leadership can't be handed over: {error}");
                }
            });
        }
        if let Some(entry) = todo.entry {
            let (reply, result) = oneshot::channel();
            let consensus = self.consensus.clone();
            tokio::spawn(async move {
                let _ = reply.send(consensus.propose(entry).await);
            });
            self.in_flight = Some(result);
        }
        if todo.must_relink {
            self.links.clear();
        }
        for batch in todo.orders {
            let start = || Link::start(batch.session.clone(), self.link_config.clone());
            let link = self.links.entry(batch.session.id).or_insert_with(start);
            if let Err(unsent) = link.send(batch) {
                self.turns.unsent(&unsent);
            }
        }
    }
}
