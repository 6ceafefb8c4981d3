//! What happens to runs: their instants come, they start, they end.

use std::sync::Arc;

use super::{
    Action, Captured, Drain, Ended, Ending, Exit, Grave, Held, LINGER_US, Live, Now, Phase, Process, Record, Runs, SpawnFailure, Timer,
    Token,
};
use crate::model::{Outcome, Reason, RunId, RunState, UnixMs};
use crate::mutation::{self, Mutation};

impl Runs {
    /// Does what is due: the end of the lease, of a drain, of waits and time-outs; then starts what may start.
    pub fn tick(&mut self, now: Now) {
        if self.session.is_some() && now.boot_us >= self.lease_end_us {
            self.lapse(now);
            self.actions.push(Action::SessionOver);
        }
        match self.drain {
            Drain::Until { stop_at_us, grace_max_ms } if now.boot_us >= stop_at_us => self.stop_all(grace_max_ms),
            _ => {}
        }
        while let Some((at, run)) = self.expiries.first().copied().filter(|(at, _)| now.boot_us > *at) {
            self.expiries.remove(&(at, run));
            self.end_waiting(now, run, RunState::Skipped, Reason::Missed);
        }
        while let Some(timer) = self.timers.first().copied().filter(|(at, _, _)| now.boot_us >= *at) {
            self.timers.remove(&timer);
            self.timer_due(timer.1, timer.2);
        }
        self.start_due(now);
        if self.session.is_some() {
            self.tombstones.prune(now.boot_us);
        }
    }

    pub(super) fn may_start(&self) -> bool {
        self.session.is_some() && self.drain == Drain::No && self.slots_taken < self.limits.slots
    }

    fn start_due(&mut self, now: Now) {
        while self.may_start() && now.boot_us < self.permit_end_us {
            let Some((_, _, run)) = self.queue.first().copied().filter(|(at, _, _)| *at <= now.boot_us) else { return };
            let Some((epoch, waited)) = self.drop_waiting(run) else { return };
            let token = self.next_token;
            self.next_token += 1;
            self.slots_taken += 1;
            self.journal(Record::Starting { run });
            self.actions.push(Action::Spawn {
                token,
                launch: waited.launch.clone(),
                not_after_us: waited.not_after_us.map_or(self.permit_end_us, |at| at.min(self.permit_end_us)),
                late_us: now.boot_us - waited.start_at_us,
            });
            self.tokens.insert(token, run);
            self.held.insert(run, Held { epoch, phase: Phase::Live(Box::new(Live::new(token, waited))) });
        }
    }

    fn timer_due(&mut self, token: Token, timer: Timer) {
        match timer {
            Timer::TimeOut => {
                if let Some(run) = self.tokens.get(&token).copied() {
                    self.stop(run, Ending::TimedOut, u64::MAX);
                }
            }
            Timer::Linger => self.actions.push(Action::CloseOutput { token }),
        }
    }

    /// The guardian has started the command.
    pub fn spawned(&mut self, now: Now, token: Token, pid: u32, start_time_ticks: u64, at: UnixMs) {
        let Some((run, epoch, live)) = self.live(token) else { return };
        let process = Process { pid, start_time_ticks, at };
        live.process = Some(process);
        let stop = live.ending.map(|why| (live.waited.launch.task.kill_grace_ms, why));
        if let Some(timeout_ms) = live.waited.launch.task.timeout_ms
            && live.exit.is_none()
        {
            let due = now.boot_us.saturating_add(i64::try_from(timeout_ms.saturating_mul(1000)).unwrap_or(i64::MAX));
            live.time_out_at_us = Some(due);
            self.timers.insert((due, token, Timer::TimeOut));
        }
        self.journal(process.record(run));
        self.actions.push(Action::ReportStarted { run, epoch, at });
        if let Some((grace_ms, why)) = stop {
            self.actions.push(Action::Stop { token, grace_ms: grace_ms.min(self.grace_max_ms()), why });
        }
        self.end_if_over(token);
    }

    /// The guardian has not started the command.
    pub fn spawn_failed(&mut self, now: Now, token: Token, failure: SpawnFailure) {
        let Some((run, epoch, live)) = self.live(token) else { return };
        let ending = live.ending;
        self.tokens.remove(&token);
        self.slots_taken -= 1;
        self.actions.push(Action::DiscardOutput { token });
        let Some(Held { phase: Phase::Live(live), .. }) = self.held.remove(&run) else { return };
        let outcome = match (failure, ending) {
            (SpawnFailure::TooLate, None) => {
                self.journal(Record::NotStarted { run });
                self.enqueue(epoch, live.waited);
                return;
            }
            (SpawnFailure::TooLate, Some(ending)) => {
                let (state, reason) = ending.state_and_reason();
                Outcome::unstarted(state, reason, now.wall())
            }
            (SpawnFailure::Failed(error), _) => Outcome { error: Some(error), ..Outcome::unstarted(RunState::Failed, None, now.wall()) },
        };
        self.enter_ended(Arc::new(Ended::unstarted(epoch, &live.waited.launch, outcome)));
    }

    /// The main process has ended.
    pub fn exited(&mut self, now: Now, token: Token, exit: Exit, at: UnixMs) {
        let is_lease_over = now.boot_us >= self.lease_end_us;
        let Some((_, _, live)) = self.live(token) else { return };
        // The guardian has a clock of its own, and goes first when this process was held up.
        if is_lease_over && live.ends_with_lease() && live.exit.is_none() && matches!(exit, Exit::Signal(_)) {
            live.ending.get_or_insert(Ending::LeaseOver);
        }
        live.exit.get_or_insert((exit, at));
        if let Some(due) = live.time_out_at_us.take() {
            self.timers.remove(&(due, token, Timer::TimeOut));
        }
        self.end_if_over(token);
    }

    /// Nothing of the process group lives: its slot is free.
    pub fn group_gone(&mut self, now: Now, token: Token) {
        let Some((_, _, live)) = self.live(token) else { return };
        if std::mem::replace(&mut live.group_gone, true) {
            return;
        }
        if live.captured.is_none() {
            let due = now.boot_us.saturating_add(LINGER_US);
            live.linger_until_us = Some(due);
            self.timers.insert((due, token, Timer::Linger));
        }
        self.slots_taken -= 1;
        self.end_if_over(token);
    }

    /// Both pipes are closed, by the command or after `CloseOutput`.
    pub fn captured(&mut self, token: Token, captured: Captured) {
        let Some((_, _, live)) = self.live(token) else { return };
        live.captured.get_or_insert(captured);
        if let Some(due) = live.linger_until_us.take() {
            self.timers.remove(&(due, token, Timer::Linger));
        }
        self.end_if_over(token);
    }

    fn live(&mut self, token: Token) -> Option<(RunId, crate::model::Epoch, &mut Live)> {
        let run = *self.tokens.get(&token)?;
        match self.held.get_mut(&run) {
            Some(Held { epoch, phase: Phase::Live(live) }) if live.token == token => Some((run, *epoch, live)),
            _ => None,
        }
    }

    /// A run is over when its start, its exit, the end of its group and the end of its output are all known.
    fn end_if_over(&mut self, token: Token) {
        let Some((run, epoch, live)) = self.live(token) else { return };
        let (Some(process), Some((exit, finished_at)), true, Some(_)) = (live.process, live.exit, live.group_gone, &live.captured) else {
            return;
        };
        let captured = live.captured.take().unwrap_or_default();
        let launch = live.waited.launch.clone();
        let (exit_code, signal) = match exit {
            Exit::Code(code) => (Some(code), None),
            Exit::Signal(signal) => (None, Some(signal)),
        };
        let (state, reason) = match live.ending {
            Some(ending) => ending.state_and_reason(),
            None if exit == Exit::Code(0) => (RunState::Succeeded, None),
            None => (RunState::Failed, None),
        };
        self.tokens.remove(&token);
        self.enter_ended(Arc::new(Ended {
            run,
            epoch,
            job: launch.job,
            job_name: launch.job_name.clone(),
            outcome: Outcome {
                state,
                reason,
                started_at: Some(process.at),
                finished_at,
                exit_code,
                signal,
                error: captured.error,
                output_bytes: captured.bytes,
                output_truncated: captured.is_truncated,
            },
            output: captured.inline,
            spooled_bytes: captured.spooled_bytes,
        }));
    }

    /// Starts nothing more; what still runs `in_us` from now is stopped, with a grace of at most `grace_max_ms`.
    pub fn drain(&mut self, now: Now, in_us: i64, grace_max_ms: u64) {
        if self.drain == Drain::No {
            self.drain = Drain::Until { stop_at_us: now.boot_us.saturating_add(in_us), grace_max_ms };
        }
    }

    fn stop_all(&mut self, grace_max_ms: u64) {
        self.drain = Drain::Stopped { grace_max_ms };
        for (token, run) in self.tokens.iter().map(|(token, run)| (*token, *run)).collect::<Vec<_>>() {
            let why = Ending::Cancelled(Reason::Drained);
            if self.live(token).is_some_and(|(_, _, live)| live.is_ending() && !live.group_gone) {
                // Its outcome stands, but its grace may be long.
                self.actions.push(Action::Stop { token, grace_ms: grace_max_ms, why });
            } else {
                self.stop(run, why, grace_max_ms);
            }
        }
    }

    fn grace_max_ms(&self) -> u64 {
        match self.drain {
            Drain::Stopped { grace_max_ms } => grace_max_ms,
            Drain::No | Drain::Until { .. } => u64::MAX,
        }
    }

    /// The leader has applied a run's end at this ledger index; 0: the store has it already.
    pub fn acknowledged(&mut self, now: Now, run: RunId, index: u64) {
        let Some(Held { phase: Phase::Ended { ended, closed_at }, .. }) = self.held.get_mut(&run) else { return };
        if closed_at.is_some() {
            return;
        }
        // Of a run without output, nothing is kept for the store: the leader has all there is.
        let index = if ended.is_without_output() || mutation::is(Mutation::SpoolDeletedEarly) { 0 } else { index };
        *closed_at = Some(index);
        self.unreported -= 1;
        self.closed.insert((index, run));
        self.journal(Record::Acknowledged { run, closed_at: index });
        self.forget_recorded(now);
    }

    /// The store has every run that was closed at or below `index`.
    pub(super) fn recorded(&mut self, now: Now, index: u64) {
        if index > self.recorded_up_to {
            self.recorded_up_to = index;
            if self.closed.first().is_some_and(|(closed_at, _)| *closed_at <= index) {
                self.journal(Record::RecordedUpTo { index });
            }
            self.forget_recorded(now);
        }
    }

    fn forget_recorded(&mut self, now: Now) {
        while let Some((index, run)) = self.closed.first().copied().filter(|(index, _)| *index <= self.recorded_up_to) {
            self.closed.remove(&(index, run));
            if let Some(Held { phase: Phase::Ended { ended, .. }, .. }) = self.held.remove(&run) {
                self.tombstones.insert(now.boot_us, run, ended.epoch, Grave::Finished);
                self.actions.push(Action::Forget(ended));
            }
        }
    }
}

impl Live {
    fn new(token: Token, waited: super::Waiting) -> Live {
        Live {
            token,
            waited,
            process: None,
            time_out_at_us: None,
            linger_until_us: None,
            ending: None,
            exit: None,
            group_gone: false,
            captured: None,
        }
    }

    pub(super) fn ends_with_lease(&self) -> bool {
        self.waited.launch.task.ends_with_lease
    }

    /// It has a process that was told to stop, or whose main part has ended.
    fn is_ending(&self) -> bool {
        self.process.is_some() && (self.ending.is_some() || self.exit.is_some())
    }
}
