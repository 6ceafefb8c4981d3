//! What workers say to this controller.

use futures::{FutureExt, StreamExt};
use tarpc::context::Context;
use tarpc::server::{BaseChannel, Channel};
use uuid::Uuid;

use crate::engine::api::{Engine, EngineError};
use crate::engine::leases::LEASE_OVER_MS;
use crate::ledger::{Closing, Command, Reply};
use crate::model::{RunState, SessionId, UnixMs, limits};
use crate::mutation::{self, Mutation};
use crate::rpc::codec::serving;
use crate::rpc::link::Io;
use crate::rpc::wire::{
    CloseSession, Controller, FRAME_BYTES_MAX, Grant, Heartbeat, OpenSession, PROTOCOL_VERSION, Refusal, Report, ReportAck, RunEvent,
    RunReport, SessionOpened,
};

use super::handle::EngineHandle;

/// Calls of one worker that are worked on at once, at most.
const CALLS_MAX: usize = 32;

impl EngineHandle {
    /// Serves one connection of a worker until it ends.
    pub async fn serve_worker(&self, io: impl Io) {
        let channel = BaseChannel::with_defaults(serving(io, FRAME_BYTES_MAX)).max_concurrent_requests(CALLS_MAX);
        channel.execute(Service(self.clone()).serve()).for_each(|call| async move { drop(tokio::spawn(call)) }).await;
    }
}

#[derive(Clone)]
struct Service(EngineHandle);

impl Controller for Service {
    async fn open_session(self, _: Context, request: OpenSession) -> Result<SessionOpened, Refusal> {
        self.0.open_session(request).await
    }
    async fn heartbeat(self, _: Context, heartbeat: Heartbeat) -> Result<Grant, Refusal> {
        self.0.heartbeat(heartbeat).await
    }
    async fn report(self, _: Context, report: Report) -> Result<ReportAck, Refusal> {
        self.0.report(report).await
    }
    async fn close_session(self, _: Context, request: CloseSession) -> Result<(), Refusal> {
        self.0.close_session(request).await
    }
}

impl EngineHandle {
    fn check_cluster(&self, theirs: crate::model::ClusterId) -> Result<(), Refusal> {
        let ours = self.inner.cluster;
        if ours == theirs { Ok(()) } else { Err(Refusal::OtherCluster { ours, theirs }) }
    }

    pub(super) fn not_leader(&self) -> Refusal {
        let status = self.inner.shared.status();
        // A node that is still said to lead, and does not, is nobody to be referred to.
        let leader = status.leader.filter(|leader| *leader != status.node_id);
        let member = status.members.into_iter().find(|member| Some(member.id) == leader);
        Refusal::NotLeader { leader, address: member.map(|member| member.address) }
    }

    pub async fn open_session(&self, request: OpenSession) -> Result<SessionOpened, Refusal> {
        let came_boot_ms = self.inner.clock.boot_ms();
        if request.protocol_version != PROTOCOL_VERSION {
            let theirs = request.protocol_version;
            return Err(Refusal::Failed(format!("this controller speaks version {PROTOCOL_VERSION} of the protocol, not {theirs}")));
        }
        if let Some(cluster) = request.cluster {
            self.check_cluster(cluster)?;
        }
        if !self.inner.is_licensed() {
            return Err(self.not_leader());
        }
        self.check_rival(&request)?;
        self.check_newer(request.data_dir, request.previous)?;
        // What may have started is judged by the clock.
        let at = self.checked_now().await.map_err(|why| Refusal::Busy { what: why.to_string() })?;
        let pair = |runs: &[crate::rpc::wire::RunRef]| runs.iter().map(|run| (run.run, run.epoch)).collect::<Vec<_>>();
        let mut held = pair(&request.adopted);
        held.extend(pair(&request.to_report));
        let command = Command::OpenSession {
            at,
            worker: request.worker.clone(),
            data_dir: request.data_dir,
            address: request.address,
            labels: request.labels,
            slots: request.slots.clamp(1, limits::WORKER_SLOTS_MAX),
            not_started: pair(&request.not_started),
            held,
            unstarted_after: if request.journal_is_whole { UnixMs::MIN } else { self.inner.soft.unstarted_after(at) },
            previous: request.previous,
        };
        let applied = self.inner.proposer.propose(vec![command]).await.map_err(|error| self.refusal(error))?;
        let Some(Reply::Session(session)) = applied.replies.first() else {
            self.check_newer(request.data_dir, request.previous)?;
            return Err(Refusal::Busy { what: "another session opens".into() });
        };
        let heartbeat = Heartbeat {
            cluster: self.inner.cluster,
            worker: request.worker.clone(),
            session: *session,
            now: request.now + (self.inner.clock.boot_ms() - came_boot_ms),
            slots: request.slots,
            running: 0,
            waiting: 0,
            is_draining: false,
            trouble: None,
        };
        let grant = self.grant(*session, heartbeat).await?;
        log::info!("worker {} has joined with {} slots (session {session})", request.worker, request.slots);
        Ok(SessionOpened { cluster: self.inner.cluster, session: *session, term: grant.term, grant })
    }

    /// The worker may not know of the last session that it opened (PROTOCOL C1).
    fn check_newer(&self, data_dir: Uuid, previous: Option<SessionId>) -> Result<(), Refusal> {
        let newest = self.inner.shared.ledger().newest_session(data_dir);
        match newest.filter(|newest| Some(*newest) > previous) {
            Some(newest) if !mutation::is(Mutation::StaleSessionOpens) => Err(Refusal::NewerSession { newest }),
            _ => Ok(()),
        }
    }

    /// A second worker of the same name, with another data directory, waits until the first one's lease is surely out (PROTOCOL C1).
    fn check_rival(&self, request: &OpenSession) -> Result<(), Refusal> {
        let ledger = self.inner.shared.ledger();
        let rivals = ledger.sessions().filter(|session| session.worker == request.worker && session.data_dir != request.data_dir);
        // The loop ends a session whose lease is surely out; until that is committed it may have one.
        let Some(rival) = rivals.min_by_key(|session| session.id) else { return Ok(()) };
        let silence_ms = self.inner.soft.silence_ms(rival.id, self.inner.clock.boot_ms()).unwrap_or(0);
        let what = format!(
            "another worker named {} (data directory {}) may still run; it has been silent for {} s of {} s",
            request.worker,
            rival.data_dir,
            silence_ms / 1000,
            LEASE_OVER_MS / 1000
        );
        Err(Refusal::Busy { what })
    }

    pub async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<Grant, Refusal> {
        self.check_cluster(heartbeat.cluster)?;
        if self.inner.shared.ledger().session(heartbeat.session).is_none() {
            if !self.inner.is_licensed() {
                return Err(self.not_leader());
            }
            return Err(Refusal::OtherSession { ours: None, given: heartbeat.session });
        }
        let session = heartbeat.session;
        self.grant(session, heartbeat).await
    }

    /// A lease, once a quorum has confirmed that this node still leads (PROTOCOL C3). The heartbeat counts whoever leads.
    async fn grant(&self, session: SessionId, heartbeat: Heartbeat) -> Result<Grant, Refusal> {
        let is_over = || Refusal::OtherSession { ours: None, given: session };
        let is_draining = heartbeat.is_draining;
        if !self.inner.soft.seen(session, self.inner.clock.wall(), self.inner.clock.boot_ms(), heartbeat) {
            // Only a leader ends sessions, and it ends this one.
            return Err(if self.inner.is_licensed() { is_over() } else { self.not_leader() });
        }
        if is_draining {
            self.inner.shared.wake(); // what it holds is wanted elsewhere, soon
        }
        if mutation::is(Mutation::GrantsWithoutQuorum) && self.inner.is_licensed() {
            return Ok(self.grant_of(self.inner.shared.status().term));
        }
        let confirmed = self.inner.consensus.confirm_leader().await.map_err(|_| self.not_leader())?;
        let Some(term) = confirmed.leader_term.filter(|_| self.inner.is_licensed()) else { return Err(self.not_leader()) };
        if self.inner.shared.ledger().session(session).is_none() {
            return Err(is_over()); // it was ended meanwhile
        }
        Ok(self.grant_of(term))
    }

    fn grant_of(&self, term: u64) -> Grant {
        Grant {
            term,
            now: self.inner.clock.wall(),
            permit_ms: limits::START_PERMIT_MS as u64,
            lease_ms: limits::SESSION_LEASE_MS as u64,
            recorded_up_to: self.inner.recorded_up_to(),
        }
    }

    /// Ends a session at its worker's word: nothing of it runs, its ends are in the ledger, and it starts nothing more. So all that is
    /// still assigned to it has not started (PROTOCOL D1).
    pub async fn close_session(&self, request: CloseSession) -> Result<(), Refusal> {
        self.check_cluster(request.cluster)?;
        if !self.inner.is_licensed() {
            return Err(self.not_leader());
        }
        let ledger = self.inner.shared.ledger();
        let Some(session) = ledger.session(request.session).filter(|session| session.worker == request.worker) else { return Ok(()) };
        let command = Command::EndSession { at: self.inner.clock.wall(), session: session.id, unstarted_after: UnixMs::MIN };
        self.inner.proposer.propose(vec![command]).await.map_err(|error| self.refusal(error))?;
        log::info!("worker {} has left (session {})", request.worker, request.session);
        Ok(())
    }

    pub async fn report(&self, report: Report) -> Result<ReportAck, Refusal> {
        self.check_cluster(report.cluster)?;
        let is_licensed = self.inner.is_licensed();
        if !is_licensed && report.runs.iter().any(|run| matches!(run.event, RunEvent::Ended { .. })) {
            return Err(self.not_leader());
        }
        if self.inner.shared.ledger().session(report.session).is_none() {
            // A follower may not have heard of the session yet.
            let what = format!("session {} is not known here yet", report.session);
            return Err(if is_licensed { Refusal::OtherSession { ours: None, given: report.session } } else { Refusal::Busy { what } });
        }
        let mut closing = Vec::new();
        for RunReport { run, epoch, event } in report.runs {
            match event {
                RunEvent::Started { at } => self.inner.soft.started(run, at),
                RunEvent::Ended { mut outcome, output } => {
                    if let Ok(now) = self.now() {
                        // A worker's clock may be off, and a retry is due so long after the end.
                        outcome.finished_at = outcome.finished_at.min(now);
                        outcome.started_at = outcome.started_at.map(|at| at.min(now));
                    }
                    if let Some(output) = output.filter(|parts| !parts.is_empty()) {
                        self.inner.soft.keep_output(run, output);
                    }
                    closing.push(Closing { run, epoch, outcome });
                }
            }
        }
        if closing.is_empty() {
            return Ok(ReportAck { term: self.inner.shared.status().term, closed_at: Vec::new() });
        }
        let ends = closing.clone();
        let command = Command::Close { at: self.inner.clock.wall(), runs: closing };
        failpoint!("before-close");
        if mutation::is(Mutation::AcknowledgesProposals) {
            drop(self.inner.proposer.propose(vec![command]).now_or_never());
            return Ok(ReportAck { term: self.inner.shared.status().term, closed_at: vec![Some(0); ends.len()] });
        }
        let applied = self.inner.proposer.propose(vec![command]).await.map_err(|error| self.refusal(error))?;
        failpoint!("after-close");
        let Some(Reply::Closed(closed_at)) = applied.replies.into_iter().next() else {
            return Err(Refusal::Failed("the ends were not applied".into()));
        };
        let mut acknowledged: Vec<Option<u64>> = closed_at.into_iter().map(Some).collect();
        for (end, index) in ends.iter().zip(&mut acknowledged).filter(|(_, index)| **index == Some(0)) {
            *index = self.correct(end).await?;
        }
        Ok(ReportAck { term: applied.term, closed_at: acknowledged })
    }

    /// The ledger has forgotten this run. If it was recorded as lost, its true outcome is entered (PROTOCOL F3). Answers as `ReportAck`
    /// does.
    async fn correct(&self, end: &Closing) -> Result<Option<u64>, Refusal> {
        if end.outcome.state == RunState::Lost {
            self.inner.soft.forget([end.run]);
            return Ok(Some(0));
        }
        // While the store is away nobody knows; the other ends of the report are not held up by that.
        let Ok(stored) = self.inner.store.run(end.run).await else { return Ok(None) };
        let Some(mut run) = stored.filter(|run| run.state == RunState::Lost) else {
            self.inner.soft.forget([end.run]);
            return Ok(Some(0));
        };
        run.close(&end.outcome);
        let command = Command::Correct { at: self.inner.clock.wall(), run: Box::new(run) };
        let applied = self.inner.proposer.propose(vec![command]).await.map_err(|error| self.refusal(error))?;
        Ok(Some(applied.index))
    }

    pub(super) fn refusal(&self, error: EngineError) -> Refusal {
        match error {
            EngineError::NoLeader(_) => self.not_leader(),
            EngineError::Busy(what) => Refusal::Busy { what },
            EngineError::Conflict(why) => Refusal::Conflict(why),
            other => Refusal::Failed(other.to_string()),
        }
    }
}
