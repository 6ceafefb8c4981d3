//! Sessions: who holds what (PROTOCOL C1, D1).

use std::collections::HashSet;
use std::sync::Arc;

use crate::model::{Outcome, Reason, RunId, RunState, SessionId, UnixMs};

use crate::mutation::{self, Mutation};

use super::apply::Turn;
use super::command::{Command, Effect, Reply, Then};
use super::state::{Assignment, Ledger, OpenRun, Session};

impl Ledger {
    /// Begins a life of a worker. Of the lives before it, in the same data directory, the journal proves what became of their runs:
    /// listed as not started, they are free; held, they go over to the new session; not mentioned by a journal that is whole, they
    /// never arrived, and can't any more, since their session is over; else they may have started, and are lost.
    ///
    /// Compared with the newest of those lives: an order to open that is older than that one, and was overtaken on its way, would end it
    /// and speak for it without knowing of it. Who only missed the answer is told which session is the newest, and asks again.
    pub(super) fn open_session(&mut self, turn: &mut Turn, command: Command) -> Reply {
        let Command::OpenSession { at, worker, data_dir, address, labels, slots, not_started, held, unstarted_after, previous } = command
        else {
            return Reply::Refused;
        };
        let id = SessionId(turn.index);
        if self.sessions.contains_key(&id) {
            return Reply::Refused; // one a batch: the index names it
        }
        if self.newest_session(data_dir) > previous && !mutation::is(Mutation::StaleSessionOpens) {
            return Reply::Refused;
        }
        let before: Vec<SessionId> =
            self.sessions.values().filter(|session| session.data_dir == data_dir).map(|session| session.id).collect();
        let runs: Vec<Arc<OpenRun>> =
            self.open.values().filter(|run| run.assigned.is_some_and(|assigned| before.contains(&assigned.session))).cloned().collect();
        let is_rival = |session: &Session| session.ended_at.is_none() && session.worker == worker && session.data_dir != data_dir;
        if self.sessions.values().any(|session| is_rival(session)) {
            return Reply::Refused; // another process of this name may still run (PROTOCOL C1)
        }
        let (held, not_started): (HashSet<_>, HashSet<_>) = (held.into_iter().collect(), not_started.into_iter().collect());
        for session in before {
            self.sessions.remove(&session);
            turn.touch(Effect::Session(session));
        }
        let replaced: Vec<SessionId> = self.ended_sessions().filter(|session| session.worker == worker).map(|session| session.id).collect();
        self.forget_sessions(turn, &replaced);
        let session = Session { id, worker, data_dir, address, labels, slots, opened_at: at, ended_at: None };
        self.sessions.insert(id, Arc::new(session));
        turn.touch(Effect::Session(id));
        for run in runs {
            let key = (run.id, run.epoch);
            if held.contains(&key) {
                self.move_to(turn, &run, Some(Assignment { session: id, epoch: run.epoch }));
            } else if not_started.contains(&key) || run.start_at > unstarted_after {
                self.move_to(turn, &run, None);
            } else {
                let mut outcome = Outcome::unstarted(RunState::Lost, Some(Reason::WorkerRestarted), at);
                outcome.error = Some("the worker's machine was restarted while the command may have been running".into());
                self.end(turn, &run, &outcome);
                self.retry(turn, &run, &outcome);
            }
        }
        Reply::Session(id)
    }

    fn move_to(&mut self, turn: &mut Turn, run: &OpenRun, assigned: Option<Assignment>) {
        self.open.insert(run.id, Arc::new(OpenRun { assigned, ..run.clone() }));
        turn.touch(Effect::Run(run.id));
    }

    /// The session gets no grant ever again. What provably has not started is free (PROTOCOL D1); the rest is unreachable.
    pub(super) fn end_session(&mut self, turn: &mut Turn, at: UnixMs, id: SessionId, unstarted_after: UnixMs) -> Reply {
        let Some(session) = self.session(id).cloned() else { return Reply::Refused };
        self.sessions.insert(id, Arc::new(Session { ended_at: Some(at), ..Session::clone(&session) }));
        turn.touch(Effect::Session(id));
        let is_its = |run: &&Arc<OpenRun>| run.assigned.is_some_and(|assigned| assigned.session == id);
        let runs: Vec<Arc<OpenRun>> = self.open.values().filter(is_its).cloned().collect();
        for run in runs {
            if run.start_at > unstarted_after {
                self.unstarted_one(turn, at, &run, Then::Requeue);
            } else {
                turn.touch(Effect::Run(run.id));
                turn.touch(Effect::Waiting(run.job.id));
            }
        }
        Reply::Done
    }

    pub(super) fn forget_sessions(&mut self, turn: &mut Turn, sessions: &[SessionId]) -> Reply {
        let mut over: HashSet<SessionId> =
            sessions.iter().filter(|id| self.any_session(**id).is_some_and(|session| session.ended_at.is_some())).copied().collect();
        if over.is_empty() {
            return Reply::Done;
        }
        for assigned in self.open.values().filter_map(|run| run.assigned) {
            over.remove(&assigned.session);
        }
        for id in over {
            self.sessions.remove(&id);
            turn.touch(Effect::Session(id));
        }
        Reply::Done
    }

    pub(super) fn assign(&mut self, turn: &mut Turn, runs: &[(RunId, SessionId)]) -> Reply {
        for (id, session) in runs {
            let Some(run) = self.open.get(id).filter(|run| run.assigned.is_none()).cloned() else { continue };
            self.open(turn, OpenRun::clone(&run), Some(*session));
        }
        Reply::Done
    }
}
