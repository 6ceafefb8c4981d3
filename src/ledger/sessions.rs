//! Sessions: who holds what (PROTOCOL C1, D1).

use std::collections::HashSet;
use std::sync::Arc;

use crate::model::{Outcome, Reason, RunId, RunState, SessionId};

use super::apply::Turn;
use super::command::{Command, Effect, Reply};
use super::state::{Assignment, Ledger, OpenRun, Session};

impl Ledger {
    /// Begins a life of a worker. Of the lives before it, in the same data directory, the journal proves what became of their runs:
    /// listed as not started, they are free; held, they go over to the new session; not mentioned by a journal that is whole, they
    /// never arrived, and can't any more, since their session is over; else they may have started, and are lost.
    pub(super) fn open_session(&mut self, turn: &mut Turn, command: Command) -> Reply {
        let Command::OpenSession { at, worker, data_dir, address, labels, slots, not_started, held, journal_is_whole } = command else {
            return Reply::Refused;
        };
        let id = SessionId(turn.index);
        if self.sessions.contains_key(&id) {
            return Reply::Refused; // one a batch: the index names it
        }
        let before: Vec<SessionId> =
            self.sessions.values().filter(|session| session.data_dir == data_dir).map(|session| session.id).collect();
        let runs: Vec<Arc<OpenRun>> =
            self.open.values().filter(|run| run.assigned.is_some_and(|assigned| before.contains(&assigned.session))).cloned().collect();
        let (held, not_started): (HashSet<_>, HashSet<_>) = (held.into_iter().collect(), not_started.into_iter().collect());
        for session in before {
            self.end_session(turn, session);
        }
        self.sessions.insert(id, Arc::new(Session { id, worker, data_dir, address, labels, slots, opened_at: at }));
        turn.touch(Effect::Session(id));
        for run in runs {
            let key = (run.id, run.epoch);
            if held.contains(&key) {
                self.move_to(turn, &run, Some(Assignment { session: id, epoch: run.epoch }));
            } else if not_started.contains(&key) || journal_is_whole || run.start_at > at {
                self.move_to(turn, &run, None);
            } else {
                let mut outcome = Outcome::unstarted(RunState::Lost, Some(Reason::WorkerRestarted), at);
                outcome.error = Some("the worker's machine was restarted while the command may have been running".into());
                self.end(turn, &run, &outcome);
            }
        }
        Reply::Session(id)
    }

    fn move_to(&mut self, turn: &mut Turn, run: &OpenRun, assigned: Option<Assignment>) {
        self.open.insert(run.id, Arc::new(OpenRun { assigned, ..run.clone() }));
        turn.touch(Effect::Run(run.id));
    }

    pub(super) fn end_session(&mut self, turn: &mut Turn, session: SessionId) -> Reply {
        if self.sessions.remove(&session).is_none() {
            return Reply::Refused;
        }
        turn.touch(Effect::Session(session));
        let touched: Vec<RunId> =
            self.open.values().filter(|run| run.assigned.is_some_and(|assigned| assigned.session == session)).map(|run| run.id).collect();
        for run in touched {
            turn.touch(Effect::Run(run));
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
