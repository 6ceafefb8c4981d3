//! The worker's sessions: how one ends, what is told when the next is opened, what grants do (PROTOCOL C).

use std::sync::Arc;

use super::{Action, Ended, Ending, Held, Now, Phase, Record, Runs};
use crate::model::limits::SESSION_LEASE_MS;
use crate::model::{ClusterId, Epoch, RunId, SessionId};
use crate::mutation::{self, Mutation};
use crate::rpc::wire::RunRef;

/// What an `OpenSession` says of earlier lives and of what lives on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Claims {
    pub cluster: Option<ClusterId>,
    pub previous: Option<SessionId>,
    pub not_started: Vec<RunRef>,
    pub adopted: Vec<RunRef>,
    pub to_report: Vec<RunRef>,
    pub journal_is_whole: bool,
}

impl Runs {
    /// Ends the session here, if one is open: unstarted runs are dropped, each with a tombstone, before anything else (PROTOCOL C1).
    pub fn lapse(&mut self, now: Now) {
        self.previous = self.session.take().or(self.previous);
        self.permit_end_us = i64::MIN;
        self.lease_end_us = i64::MIN;
        for run in self.queue.iter().map(|(_, _, run)| *run).collect::<Vec<_>>() {
            if let Some((epoch, _)) = self.drop_waiting(run) {
                self.bury(now, run, epoch);
            }
        }
        let is_bound = |run: &RunId| matches!(self.held.get(run), Some(Held { phase: Phase::Live(live), .. }) if live.ends_with_lease());
        for run in self.tokens.values().copied().filter(is_bound).collect::<Vec<_>>() {
            self.stop(run, Ending::LeaseOver, u64::MAX);
        }
    }

    /// What the next session is told. Call it after `lapse`; it may be asked again until a session is open. `newest`: a session of this
    /// worker's that a leader has spoken of, and whose answer never came (PROTOCOL C1).
    pub fn claims(&self, newest: Option<SessionId>) -> Claims {
        let mut claims = Claims {
            cluster: self.cluster,
            previous: self.previous.max(newest),
            journal_is_whole: self.journal_is_whole,
            not_started: self.tombstones.revoked().map(|(run, epoch)| RunRef { run, epoch }).collect(),
            ..Claims::default()
        };
        for (run, held) in &self.held {
            let of = RunRef { run: *run, epoch: held.epoch };
            match held.phase {
                Phase::Waiting(_) => {}
                Phase::Live(_) => claims.adopted.push(of),
                Phase::Ended { closed_at: None, .. } => claims.to_report.push(of),
                Phase::Ended { .. } => {}
            }
        }
        claims
    }

    /// A session is open.
    pub fn opened(&mut self, cluster: ClusterId, session: SessionId, term: u64) {
        self.cluster = Some(cluster);
        self.session = Some(session);
        self.journal_is_whole = true;
        self.see_term(term);
        self.tombstones.forget_revoked();
        self.journal(Record::Session { cluster, session });
    }

    /// The leader of a new term may use connections that are older than those of the one before.
    fn see_term(&mut self, term: u64) {
        if term > self.term {
            (self.term, self.connection) = (term, 0);
        }
    }

    /// A controller that leads has granted time, counted from when the heartbeat was sent. A grant of a deposed leader is worth nothing.
    pub fn granted(&mut self, now: Now, session: SessionId, term: u64, permit_end_us: i64, lease_end_us: i64, recorded_up_to: u64) {
        if term < self.term || self.session != Some(session) {
            return;
        }
        self.see_term(term);
        let late_us = if mutation::is(Mutation::LeaseFromReceipt) { now.boot_us + SESSION_LEASE_MS * 1_000 - lease_end_us } else { 0 };
        let (permit_end_us, lease_end_us) = (permit_end_us + late_us, lease_end_us + late_us);
        self.permit_end_us = self.permit_end_us.max(permit_end_us.min(lease_end_us));
        self.lease_end_us = self.lease_end_us.max(lease_end_us);
        self.actions.push(Action::SetLease { permit_end_us: self.permit_end_us, lease_end_us: self.lease_end_us });
        self.recorded(now, recorded_up_to);
    }

    /// Takes over what an earlier life left behind: proof that a run did not start.
    pub fn restore_not_started(&mut self, now: Now, run: RunId, epoch: Epoch) {
        self.bury(now, run, epoch);
    }

    /// Takes over a run that may have been started in an earlier life, and has surely ended now.
    pub fn restore_lost(&mut self, ended: Arc<Ended>) {
        self.enter_ended(ended);
    }

    /// Takes over a run that ended in an earlier life. `closed_at` as in `Record::Acknowledged`.
    pub fn restore_ended(&mut self, ended: Arc<Ended>, closed_at: Option<u64>) {
        self.journal(Record::Ended(ended.clone()));
        self.hold_ended(ended.clone(), closed_at);
        match closed_at {
            Some(closed_at) => self.journal(Record::Acknowledged { run: ended.run, closed_at }),
            None => self.actions.push(Action::ReportAgain(ended)),
        }
    }

    /// Records of earlier lives may be missing, and with them runs that were started.
    pub fn restore_not_whole(&mut self) {
        self.journal_is_whole = false;
        self.journal(Record::NotWhole);
    }

    /// What each journal file begins with: the session that is open, or the last one that was; and whether records may be missing.
    pub fn head_records(&self) -> Vec<Record> {
        let session = self.session.or(self.previous);
        let session = self.cluster.zip(session).map(|(cluster, session)| Record::Session { cluster, session });
        session.into_iter().chain((!self.journal_is_whole).then_some(Record::NotWhole)).collect()
    }
}
