//! The leader of these tests: opens sessions, grants leases, acknowledges reports, and remembers all of it. It decides nothing.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono_flow::model::{ClusterId, Outcome, OutputPart, RunId, SessionId, UnixMs};
use chrono_flow::rpc::codec;
use chrono_flow::rpc::link::{Connection, Dial, Io};
use chrono_flow::rpc::wire::{
    CloseSession, Controller, Grant, Heartbeat, OpenSession, Refusal, Report, ReportAck, RunEvent, SessionOpened,
};
use futures::StreamExt;
use tarpc::context::Context;
use tarpc::server::{BaseChannel, Channel};
use tokio::sync::watch;

/// Everything waited for comes well before; only a broken promise takes so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Leader {
    pub state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
}

pub struct State {
    pub cluster: ClusterId,
    pub term: u64,
    pub permit_ms: u64,
    pub lease_ms: u64,
    /// Heartbeats get no answer.
    pub is_silent: bool,
    /// So many reports are refused.
    pub reports_refused: u32,
    /// So many reports are applied, but the answer is lost.
    pub answers_lost: u32,
    /// The store has everything to here.
    pub recorded_up_to: u64,
    pub index: u64,
    pub opened: Vec<OpenSession>,
    pub session: Option<SessionId>,
    /// The last one that was opened.
    pub newest: Option<SessionId>,
    /// So many sessions are opened, but the answer is lost.
    pub opens_lost: u32,
    pub closed: Vec<SessionId>,
    pub heartbeats: VecDeque<Heartbeat>,
    pub heartbeats_answered: u64,
    pub started: Vec<RunId>,
    pub ended: HashMap<RunId, Ended>,
}

/// What was reported of a run's end.
#[derive(Clone, Debug)]
pub struct Ended {
    pub outcome: Outcome,
    pub output: Option<Vec<OutputPart>>,
    pub reports: u32,
    pub closed_at: u64,
    pub session: SessionId,
}

impl Leader {
    pub fn new() -> Leader {
        let state = State {
            cluster: ClusterId(uuid::Uuid::new_v4()),
            term: 5,
            permit_ms: 60_000,
            lease_ms: 90_000,
            is_silent: false,
            reports_refused: 0,
            answers_lost: 0,
            recorded_up_to: 0,
            index: 100,
            opened: Vec::new(),
            session: None,
            newest: None,
            opens_lost: 0,
            closed: Vec::new(),
            heartbeats: VecDeque::new(),
            heartbeats_answered: 0,
            started: Vec::new(),
            ended: HashMap::new(),
        };
        Leader { state: Arc::new(Mutex::new(state)), changes: watch::Sender::new(0) }
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// Waits until `look` finds something.
    pub async fn until<T>(&self, what: &str, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        let wait = async {
            loop {
                if let Some(found) = self.with(&mut look) {
                    return found;
                }
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
    }

    /// Waits for a session after `count` earlier ones.
    pub async fn session_after(&self, count: usize) -> OpenSession {
        self.until("a session", |state| state.opened.get(count).cloned()).await
    }

    /// Waits until so many more heartbeats were answered.
    pub async fn heartbeats(&self, more: u64) {
        let seen = self.with(|state| state.heartbeats_answered);
        self.until("heartbeats", |state| (state.heartbeats_answered >= seen + more).then_some(())).await;
    }

    pub async fn ended(&self, run: RunId) -> Ended {
        self.until("the end of a run", |state| state.ended.get(&run).cloned()).await
    }

    /// Serves one connection of a worker.
    pub fn accept(&self, io: impl Io) {
        let channel = BaseChannel::with_defaults(codec::transport(io));
        let calls = channel.execute(Controller::serve(self.clone()));
        tokio::spawn(calls.for_each(|call| async {
            tokio::spawn(call);
        }));
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

impl State {
    fn grant(&self) -> Grant {
        let now = UnixMs(0);
        Grant { term: self.term, now, permit_ms: self.permit_ms, lease_ms: self.lease_ms, recorded_up_to: self.recorded_up_to }
    }
}

impl Controller for Leader {
    async fn open_session(self, _: Context, request: OpenSession) -> Result<SessionOpened, Refusal> {
        let opened = self.with(|state| {
            if let Some(newest) = state.newest.filter(|newest| Some(*newest) > request.previous) {
                return Err(Refusal::NewerSession { newest });
            }
            state.index += 1;
            let session = SessionId(state.index);
            (state.session, state.newest) = (Some(session), Some(session));
            state.opened.push(request);
            if state.opens_lost > 0 {
                state.opens_lost -= 1;
                return Err(Refusal::Busy { what: "an answer that is lost".into() });
            }
            Ok(SessionOpened { cluster: state.cluster, session, term: state.term, grant: state.grant() })
        });
        self.changed();
        opened
    }

    async fn heartbeat(self, _: Context, heartbeat: Heartbeat) -> Result<Grant, Refusal> {
        let answer = self.with(|state| {
            if state.is_silent {
                return None;
            }
            if state.session != Some(heartbeat.session) {
                return Some(Err(Refusal::OtherSession { ours: state.session, given: heartbeat.session }));
            }
            state.heartbeats_answered += 1;
            state.heartbeats.push_back(heartbeat);
            Some(Ok(state.grant()))
        });
        self.changed();
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    async fn close_session(self, _: Context, request: CloseSession) -> Result<(), Refusal> {
        self.with(|state| state.closed.push(request.session));
        self.changed();
        Ok(())
    }

    async fn report(self, _: Context, report: Report) -> Result<ReportAck, Refusal> {
        let answer = self.with(|state| {
            if state.reports_refused > 0 {
                state.reports_refused -= 1;
                return Some(Err(Refusal::Busy { what: "this test".into() }));
            }
            let mut closed_at = Vec::new();
            for run in report.runs {
                match run.event {
                    RunEvent::Started { .. } => state.started.push(run.run),
                    RunEvent::Ended { outcome, output } => {
                        state.index += 1;
                        let ended = Ended { outcome, output, reports: 0, closed_at: state.index, session: report.session };
                        let ended = state.ended.entry(run.run).or_insert(ended);
                        ended.reports += 1;
                        closed_at.push(Some(ended.closed_at));
                    }
                }
            }
            if state.answers_lost > 0 {
                state.answers_lost -= 1;
                return Some(Err(Refusal::Busy { what: "an answer that is lost".into() }));
            }
            Some(Ok(ReportAck { term: state.term, closed_at }))
        });
        self.changed();
        answer.unwrap()
    }
}

#[async_trait]
impl Dial for Leader {
    async fn dial(&self, _address: &str) -> io::Result<Connection> {
        let (ours, theirs) = tokio::io::duplex(256 * 1024);
        self.accept(theirs);
        Ok(Box::new(ours))
    }
}
