//! What a worker's silence proves (PROTOCOL C1, C4, C5, D1, D2). Pure: a leader notes when it heard of each session, and from that follows
//! when its start permit, its lease and its commands are surely over.
//!
//! A worker counts from when it *sent* a heartbeat, the leader from when it *received* it, which is later: what is over here is over there,
//! within the drift of two clocks that count the same time. A new leader doesn't know what its predecessor granted, and so counts from its
//! own election at the earliest (C4): a grant needs a quorum's word that was given after the heartbeat was sent (C3), and a quorum has
//! since elected this leader.
//!
//! A session that is about to be ended gets no grant any more, so that its end, once committed, can't meet a grant on its way.
//!
//! Left out: what to do with what is free (`core`), and what the session did (its worker tells, if it comes back).

use std::collections::HashMap;
use std::sync::Arc;

use crate::ledger::{Closing, Command, Ledger, OpenRun, Session};
use crate::model::limits::{LOOKAHEAD_MS_DEFAULT, SESSION_LEASE_MS, START_PERMIT_MS};
use crate::model::{OnWorkerLost, Outcome, Reason, RunState, SessionId};
use crate::mutation::{self, Mutation};

use super::clock::Reading;
use super::staging::Staging;

/// A worker that was silent for longer gets no work: its permit could be over before what is decided now has started.
pub const FRESH_MS: i64 = 2_500;
/// Deciding looks ahead by the look-ahead and some more; a fresh worker's permit must cover that.
const _: () = assert!(FRESH_MS + LOOKAHEAD_MS_DEFAULT + 250 < START_PERMIT_MS);
/// Two clocks that measure the same span differ by no more than so many percent of it, and so many milliseconds.
const DRIFT_PERCENT: i64 = 1;
const DRIFT_MS: i64 = 300;
/// How far apart two controllers' walls may be while both are good, and a worker's from theirs, in limits of skew: an instant is read on
/// one clock, was staged by another, and is kept by a third that may start earlier by the limit (PROTOCOL C6).
pub const SKEWS: i64 = 3;
/// What a guardian may take, beyond the grace, to end a run whose lease is over.
const KILL_MS_MAX: i64 = 2_000;
/// A session that is over is shown for so long, if no run refers to it.
const ENDED_KEPT_MS: i64 = 24 * 3600 * 1000;
/// The silent are looked at so often.
const LOOK_EVERY_MS: i64 = 250;
/// Runs that one entry closes as lost, at most.
const LOST_PER_ENTRY_MAX: usize = 10_000;

/// A span by one clock, as another one may measure it.
const fn drifted(span_ms: i64) -> i64 {
    span_ms + span_ms * DRIFT_PERCENT / 100 + DRIFT_MS
}

/// How long after it was last heard of a session may start runs, and live, at the longest.
pub const PERMIT_OVER_MS: i64 = drifted(START_PERMIT_MS);
pub const LEASE_OVER_MS: i64 = drifted(SESSION_LEASE_MS);

#[derive(Default, Debug)]
pub struct Leases {
    sessions: HashMap<SessionId, Lease>,
    /// When this node began to lead; until then grants of others may have been given.
    leads_since_boot_ms: i64,
    looked_at_boot_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    /// When it was last heard of; when this node first knew of it, if it was not.
    heard_boot_ms: i64,
    /// Since when it is known to be over.
    over_boot_ms: Option<i64>,
    /// Its end is proposed.
    is_ending: bool,
}

impl Leases {
    /// This node begins to lead.
    pub fn lead(&mut self, boot_ms: i64) {
        self.leads_since_boot_ms = boot_ms;
        self.looked_at_boot_ms = None;
        self.sessions.values_mut().for_each(|lease| lease.is_ending = false);
    }

    /// A session was heard of. False: it is over, or about to be, and may get no grant.
    pub fn heard(&mut self, session: SessionId, boot_ms: i64) -> bool {
        let lease = self.sessions.entry(session).or_insert(Lease { heard_boot_ms: boot_ms, over_boot_ms: None, is_ending: false });
        if lease.is_ending || lease.over_boot_ms.is_some() {
            return false;
        }
        lease.heard_boot_ms = boot_ms;
        true
    }

    /// Renews what is known of sessions from the ledger.
    pub fn follow(&mut self, ledger: &Ledger, boot_ms: i64) {
        self.sessions.retain(|id, _| ledger.any_session(*id).is_some());
        let unheard = Lease { heard_boot_ms: boot_ms, over_boot_ms: None, is_ending: false };
        for session in ledger.sessions() {
            self.sessions.entry(session.id).or_insert(unheard);
        }
        for session in ledger.ended_sessions() {
            self.sessions.entry(session.id).or_insert(unheard).over_boot_ms.get_or_insert(boot_ms);
        }
    }

    /// Whether its permit covers what would be given to it now.
    pub fn is_fresh(&self, session: SessionId, boot_ms: i64) -> bool {
        self.lease(session).is_some_and(|lease| !lease.is_ending && boot_ms - lease.heard_boot_ms <= FRESH_MS)
    }

    /// Whether it may still start something that it is given, as far as this node has heard.
    pub fn has_permit(&self, session: SessionId, boot_ms: i64) -> bool {
        self.lease(session).is_some_and(|lease| boot_ms - lease.heard_boot_ms <= START_PERMIT_MS)
    }

    /// Whether it has not been heard of for longer than its lease.
    pub fn is_silent(&self, session: SessionId, boot_ms: i64) -> bool {
        self.sessions.get(&session).is_some_and(|lease| boot_ms - lease.heard_boot_ms > SESSION_LEASE_MS)
    }

    /// For how long a leader must count a session as silent: from when it began to lead, at the longest (PROTOCOL C4).
    pub fn silence_ms(&self, session: SessionId, boot_ms: i64) -> Option<i64> {
        self.sessions.get(&session).map(|lease| boot_ms - lease.heard_boot_ms.max(self.leads_since_boot_ms))
    }

    fn lease(&self, session: SessionId) -> Option<&Lease> {
        self.sessions.get(&session).filter(|lease| lease.over_boot_ms.is_none())
    }

    /// What a leader should propose: ends of sessions whose lease is surely over, and of runs that went down with them.
    pub fn plan(&mut self, ledger: &Ledger, staging: &Staging, now: Reading, skew_ms_max: i64) -> Vec<Command> {
        if self.looked_at_boot_ms.is_some_and(|looked_at| now.boot_ms < looked_at + LOOK_EVERY_MS) {
            return Vec::new();
        }
        self.looked_at_boot_ms = Some(now.boot_ms);
        let mut commands = self.end_sessions(ledger, now, skew_ms_max);
        let (idle, holding): (Vec<_>, Vec<_>) = ledger.ended_sessions().partition(|session| staging.outstanding(session.id) == 0);
        let is_old = |session: &&Arc<Session>| session.ended_at.is_some_and(|ended_at| now.wall.since(ended_at) >= ENDED_KEPT_MS);
        let sessions: Vec<SessionId> = idle.into_iter().filter(is_old).map(|session| session.id).collect();
        if !sessions.is_empty() {
            commands.push(Command::ForgetSessions { sessions });
        }
        if !holding.is_empty() {
            let lost = ledger.open_runs().filter_map(|run| self.lost(ledger, run, now));
            let runs: Vec<Closing> = lost.take(LOST_PER_ENTRY_MAX).collect();
            if !runs.is_empty() {
                commands.push(Command::Close { at: now.wall, runs });
            }
        }
        commands
    }

    fn end_sessions(&mut self, ledger: &Ledger, now: Reading, skew_ms_max: i64) -> Vec<Command> {
        let leads_since = self.leads_since_boot_ms;
        let mut ends = Vec::new();
        for session in ledger.sessions() {
            let Some(lease) = self.sessions.get_mut(&session.id) else { continue };
            let leads_since = if mutation::is(Mutation::NewLeaderDoesNotWait) { i64::MIN } else { leads_since };
            let silence_ms = now.boot_ms - lease.heard_boot_ms.max(leads_since);
            if silence_ms >= LEASE_OVER_MS {
                lease.is_ending = true;
                // No start of this session can lie after its last permit (PROTOCOL D1).
                let unstarted_after = now.wall - (silence_ms - PERMIT_OVER_MS) + SKEWS * skew_ms_max;
                ends.push(Command::EndSession { at: now.wall, session: session.id, unstarted_after });
            }
        }
        ends
    }

    /// The end of an unreachable run, when it has come (PROTOCOL D2).
    fn lost(&self, ledger: &Ledger, run: &OpenRun, now: Reading) -> Option<Closing> {
        let session = ledger.any_session(run.assigned?.session)?;
        let (ended_at, lease, spec) = (session.ended_at?, self.sessions.get(&session.id)?, &run.job.spec);
        let kill_grace_ms = i64::from(spec.kill_grace_s) * 1000;
        // Whoever leads now, the session was over when its end was applied here.
        let is_dead = now.boot_ms - lease.over_boot_ms? >= drifted(kill_grace_ms + KILL_MS_MAX) || mutation::is(Mutation::RetriesAtOnce);
        let silent_since = ended_at - SESSION_LEASE_MS;
        let is_given_up = now.wall.since(silent_since) >= i64::from(spec.lost_after_s) * 1000;
        let error = match spec.on_worker_lost {
            OnWorkerLost::Retry if is_dead => "its worker has lost its lease, and has ended it by now".to_owned(),
            OnWorkerLost::Wait if is_given_up => format!("its worker has been silent for {} s", spec.lost_after_s),
            OnWorkerLost::Retry | OnWorkerLost::Wait => return None,
        };
        let mut outcome = Outcome::unstarted(RunState::Lost, Some(Reason::WorkerLost), now.wall);
        outcome.error = Some(error);
        Some(Closing { run: run.id, epoch: run.epoch, outcome })
    }
}
