//! `apply`: one command, what it answers, what it touched. Also the small steps that the commands are made of.

use std::sync::Arc;

use crate::model::{Job, JobId, Outcome, Reason, Run, RunId, RunState, SessionId, Trigger, UnixMs};
use crate::mutation::{self, Mutation};

use super::command::{Command, Effect, Reply};
use super::state::{Assignment, Ledger, OpenRun, Waiting, WaitingKind, blank};

/// Where a command stands in the log, and what it has touched so far.
pub(super) struct Turn<'a> {
    pub index: u64,
    /// Counts the rows that the entry leaves for the store.
    row: u32,
    pub effects: &'a mut Vec<Effect>,
}

impl Turn<'_> {
    pub fn touch(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}

impl Ledger {
    /// Applies the commands of one entry, in order. `effects` gets what they touched.
    pub fn apply(&mut self, index: u64, commands: Vec<Command>, effects: &mut Vec<Effect>) -> Vec<Reply> {
        let mut turn = Turn { index, row: 0, effects };
        let replies = commands.into_iter().map(|command| self.apply_one(&mut turn, command)).collect();
        self.applied = index;
        replies
    }

    fn apply_one(&mut self, turn: &mut Turn, command: Command) -> Reply {
        match command {
            Command::Found { cluster } => {
                self.cluster.get_or_insert(cluster);
                Reply::Done
            }
            Command::PutJob(job) => self.put_job(turn, *job),
            Command::DropJob { id, revision, effective_from, change_seq } => self.drop_job(turn, id, revision, effective_from, change_seq),
            Command::Decide(decide) => self.decide(turn, &decide),
            Command::Resolve { at, fires } => self.resolve(turn, at, &fires),
            Command::OpenSession { .. } => self.open_session(turn, command),
            Command::EndSession { at, session, unstarted_after } => self.end_session(turn, at, session, unstarted_after),
            Command::Assign { runs } => self.assign(turn, &runs),
            Command::Unstarted { at, runs } => self.unstarted(turn, at, &runs),
            Command::Trigger { at, job, run, has_key, session } => self.trigger(turn, at, job, run, has_key, session),
            Command::Cancel { at, run, reason } => self.cancel(turn, at, run, reason),
            Command::Close { at, runs } => self.close(turn, at, runs),
            Command::Correct { at, run } => self.correct(turn, at, *run),
            Command::Recorded { up_to } => self.recorded(turn, up_to),
            Command::ForgetSessions { sessions } => self.forget_sessions(turn, &sessions),
        }
    }

    /// Whether a further run of this job has to wait (PROTOCOL B7): one is open, or another fire waits already.
    pub fn is_blocked(&self, job: &Job) -> bool {
        job.spec.overlap != crate::model::Overlap::Allow
            && (self.open_runs_of(job.id).next().is_some() || self.waiting_of(job.id).next().is_some())
    }

    /// Opens a run, for `session` if it still stands, else for nobody.
    pub(super) fn open(&mut self, turn: &mut Turn, mut run: OpenRun, session: Option<SessionId>) {
        run.assigned = None;
        self.assign_to(turn, &mut run, session);
        turn.touch(Effect::Run(run.id));
        self.open_of_job.insert((run.job.id, run.id));
        self.open.insert(run.id, Arc::new(run));
    }

    /// The epoch is the index of the entry: one run id can be opened anew after it was taken back, and what was said of it before must
    /// not be taken for a word about it now.
    fn assign_to(&self, turn: &Turn, run: &mut OpenRun, session: Option<SessionId>) {
        if let Some(session) = session.filter(|session| self.session(*session).is_some()) {
            let next = run.epoch.saturating_add(1);
            run.epoch = if mutation::is(Mutation::ReusesEpochs) { next } else { turn.index.max(next) };
            run.assigned = Some(Assignment { session, epoch: run.epoch });
        }
    }

    /// Takes a run out of the open ones and leaves its row for the store. Whoever waits for it may go on.
    pub(super) fn end(&mut self, turn: &mut Turn, run: &OpenRun, outcome: &Outcome) {
        let mut row = run.to_run(self);
        if outcome.started_at.is_none() && matches!(outcome.state, RunState::Skipped | RunState::Cancelled) {
            row.worker_id = None;
        }
        row.close(outcome);
        self.open.remove(&run.id);
        self.open_of_job.remove(&(run.job.id, run.id));
        turn.touch(Effect::Run(run.id));
        turn.touch(Effect::Waiting(run.job.id));
        self.leave_row(turn, row);
    }

    pub(super) fn wait(&mut self, turn: &mut Turn, waiting: Waiting) {
        turn.touch(Effect::Waiting(waiting.job.id));
        self.waiting_runs.insert(waiting.id, (waiting.job.id, waiting.scheduled_at));
        self.waiting.insert((waiting.job.id, waiting.scheduled_at, waiting.id), Arc::new(waiting));
    }

    pub(super) fn stop_waiting(&mut self, turn: &mut Turn, waiting: &Waiting) {
        self.waiting.remove(&(waiting.job.id, waiting.scheduled_at, waiting.id));
        self.waiting_runs.remove(&waiting.id);
        turn.touch(Effect::Waiting(waiting.job.id));
    }

    /// The waiting fire ends here, unlaunched.
    pub(super) fn end_waiting(&mut self, turn: &mut Turn, waiting: &Waiting, state: RunState, reason: Reason, at: UnixMs) {
        self.stop_waiting(turn, waiting);
        let mut row = waiting.to_run();
        row.close(&Outcome::unstarted(state, Some(reason), at));
        self.leave_row(turn, row);
    }

    /// A row for the store; of one run the newest counts.
    pub(super) fn leave_row(&mut self, turn: &mut Turn, row: Run) {
        let place = (turn.index, turn.row);
        turn.row += 1;
        turn.touch(Effect::Unrecorded);
        if let Some(older) = self.unrecorded_runs.insert(row.id, place) {
            self.unrecorded.remove(&older);
        }
        self.unrecorded.insert(place, Arc::new(row));
    }

    fn recorded(&mut self, turn: &mut Turn, up_to: u64) -> Reply {
        while let Some((place, run)) = self.unrecorded.get_min().filter(|(place, _)| place.0 <= up_to) {
            let (place, id) = (*place, run.id);
            self.unrecorded.remove(&place);
            self.unrecorded_runs.remove(&id);
        }
        turn.touch(Effect::Unrecorded);
        Reply::Done
    }

    /// An open run as its first attempt begins.
    pub(super) fn first_attempt(id: RunId, job: &Arc<Job>, trigger: Trigger, scheduled_at: UnixMs) -> OpenRun {
        OpenRun {
            id,
            job: job.clone(),
            trigger,
            retry_of: None,
            scheduled_at,
            start_at: scheduled_at,
            attempt: 1,
            losses: 0,
            assigned: None,
            epoch: 0,
            cancel: None,
            heir: None,
        }
    }

    pub(super) fn deferred(id: RunId, job: &Arc<Job>, trigger: Trigger, scheduled_at: UnixMs) -> Waiting {
        Waiting { id, job: job.clone(), trigger, scheduled_at, kind: WaitingKind::Deferred }
    }

    pub(super) fn skipped_row(&self, job: &Job, trigger: Trigger, scheduled_at: UnixMs, reason: Reason, at: UnixMs) -> Run {
        let mut row = blank(self.launch_id(job.id, scheduled_at, 1), job, trigger, scheduled_at, RunState::Skipped);
        row.close(&Outcome::unstarted(RunState::Skipped, Some(reason), at));
        row
    }

    pub(super) fn launch_id(&self, job: JobId, scheduled_at: UnixMs, attempt: u32) -> RunId {
        let cluster = self.cluster.unwrap_or(crate::model::ClusterId(uuid::Uuid::nil()));
        RunId::of_launch(cluster, job, scheduled_at, attempt)
    }
}
