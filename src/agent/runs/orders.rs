//! What the leader orders: stage, revoke, cancel.

use std::sync::Arc;

use super::{Action, Drain, Ended, Ending, Grave, Held, Launch, Now, Phase, Record, Runs, Waiting, accepted};
use crate::model::limits::{MAX_OUTPUT_BYTES_MAX, NAME_CHARS_MAX};
use crate::model::{Epoch, Outcome, Reason, RunId, RunState};
use crate::mutation::{self, Mutation};
use crate::rpc::wire::{Cancel, Order, Refusal, RevokeAck, RunRef, Stage, StageAck, StageResult, Task};

/// Bytes of a job's name, at most: four for each character.
const JOB_NAME_BYTES_MAX: usize = 4 * NAME_CHARS_MAX;
/// No order means an instant that is further away: 1,000 years.
const ORDER_MS_MAX: i64 = 1_000 * 366 * 86_400_000;

impl Runs {
    /// Whether an order may be obeyed (PROTOCOL C2). `connection` counts the connections in the order in which they were accepted: once the
    /// leader of a term has used a newer one, what is still buffered in an older one is stale.
    pub fn check<T>(&mut self, order: &Order<T>, connection: u64) -> Result<(), Refusal> {
        match self.cluster {
            Some(ours) if ours != order.cluster => return Err(Refusal::OtherCluster { ours, theirs: order.cluster }),
            _ => {}
        }
        if order.term < self.term && !mutation::is(Mutation::TermNotChecked) {
            return Err(Refusal::OldTerm { seen: self.term, given: order.term });
        }
        if self.session.is_none() && self.previous.is_none_or(|previous| previous < order.session) {
            // The leader has applied the session, and its answer is still on the way here.
            return Err(Refusal::Busy { what: "the session is not open here yet".into() });
        }
        if self.session != Some(order.session) && !mutation::is(Mutation::SessionNotChecked) {
            return Err(Refusal::OtherSession { ours: self.session, given: order.session });
        }
        if order.term == self.term && connection < self.connection {
            return Err(Refusal::Failed("this connection has been replaced by a newer one".into()));
        }
        (self.term, self.connection) = (order.term, connection);
        Ok(())
    }

    /// Takes runs to start at their instants.
    pub fn stage(&mut self, now: Now, stages: Vec<Stage>) -> Vec<StageAck> {
        stages
            .into_iter()
            .map(|stage| {
                let (run, epoch) = (stage.run, stage.epoch);
                StageAck { run, epoch, result: self.stage_one(now, stage) }
            })
            .collect()
    }

    fn stage_one(&mut self, now: Now, stage: Stage) -> StageResult {
        match self.known(stage.run, stage.epoch) {
            Some(answer) => return answer,
            None if self.drain != Drain::No => return StageResult::Declined("the worker is draining".into()),
            None => {}
        }
        if let Some(trouble) = self.trouble() {
            return StageResult::Declined(trouble.to_string());
        }
        // What no job can have comes from no leader in its right mind; the journal could not take it.
        if stage.job_name.len() > JOB_NAME_BYTES_MAX {
            return StageResult::Declined(format!("the job's name has more than {JOB_NAME_BYTES_MAX} bytes"));
        }
        self.drop_waiting(stage.run);
        self.tombstones.remove(stage.run);
        let start_at_us = start_at_us(now, &stage);
        let not_after_us = stage.not_after_in_ms.map(|ms| now.boot_us + to_us(ms));
        let launch = Arc::new(Launch {
            run: stage.run,
            job: stage.job,
            job_name: Arc::from(stage.job_name),
            attempt: stage.attempt,
            scheduled_at: stage.scheduled_at,
            task: Task { max_output_bytes: stage.task.max_output_bytes.min(MAX_OUTPUT_BYTES_MAX.into()), ..stage.task },
        });
        let in_ms = (start_at_us - now.boot_us).div_euclid(1000);
        log::debug!("staged run {} of job {}, starts in {in_ms} ms", launch.run, launch.job_name);
        self.journal(accepted(stage.epoch, &launch));
        self.next_arrival += 1;
        let waiting = Waiting { launch, start_at_us, arrival: self.next_arrival, not_after_us };
        self.enqueue(stage.epoch, waiting);
        StageResult::Accepted
    }

    /// The answer to a stage of a run that is or was here; none: it is to be taken.
    fn known(&self, run: RunId, epoch: Epoch) -> Option<StageResult> {
        if let Some(held) = self.held.get(&run) {
            return match held.phase {
                _ if epoch == held.epoch => Some(StageResult::Accepted),
                _ if epoch < held.epoch => Some(StageResult::Revoked),
                Phase::Waiting(_) => None,
                Phase::Live(_) | Phase::Ended { .. } => Some(StageResult::Declined(format!("it started under epoch {}", held.epoch))),
            };
        }
        match self.tombstones.get(run)? {
            (known, Grave::Revoked) if epoch <= known => Some(StageResult::Revoked),
            (_, Grave::Revoked) => None,
            (known, Grave::Finished) if epoch == known => Some(StageResult::Accepted),
            (known, Grave::Finished) if epoch < known => Some(StageResult::Revoked),
            (known, Grave::Finished) => Some(StageResult::Declined(format!("it ended under epoch {known}"))),
        }
    }

    pub(super) fn enqueue(&mut self, epoch: Epoch, waiting: Waiting) {
        let run = waiting.launch.run;
        self.queue.insert((waiting.start_at_us, waiting.arrival, run));
        self.expiries.extend(waiting.not_after_us.map(|at| (at, run)));
        self.held.insert(run, Held { epoch, phase: Phase::Waiting(waiting) });
    }

    /// Takes a waiting run out of the table; none if it is not waiting.
    pub(super) fn drop_waiting(&mut self, run: RunId) -> Option<(Epoch, Waiting)> {
        if !matches!(self.held.get(&run)?.phase, Phase::Waiting(_)) {
            return None;
        }
        let held = self.held.remove(&run)?;
        let Phase::Waiting(waiting) = held.phase else { return None };
        self.queue.remove(&(waiting.start_at_us, waiting.arrival, run));
        if let Some(at) = waiting.not_after_us {
            self.expiries.remove(&(at, run));
        }
        Some((held.epoch, waiting))
    }

    /// Takes runs back, if they have not started. The answers may be sent once the actions' journal records are written.
    pub fn revoke(&mut self, now: Now, runs: &[RunRef]) -> Vec<RevokeAck> {
        runs.iter().map(|of| RevokeAck { run: of.run, epoch: of.epoch, not_started: self.revoke_one(now, *of) }).collect()
    }

    fn revoke_one(&mut self, now: Now, RunRef { run, epoch }: RunRef) -> bool {
        match self.held.get(&run) {
            // An earlier epoch than the one held was given up before that one was taken.
            Some(held) if epoch < held.epoch => return true,
            Some(Held { phase: Phase::Live(_) | Phase::Ended { .. }, .. }) => return false,
            Some(_) => {
                self.drop_waiting(run);
            }
            None => match self.tombstones.get(run) {
                Some((_, Grave::Finished)) => return false,
                Some((known, Grave::Revoked)) if epoch <= known => return true,
                Some((_, Grave::Revoked)) | None => {}
            },
        }
        self.bury(now, run, epoch);
        true
    }

    /// Leaves a tombstone: this epoch did not start and will not.
    pub(super) fn bury(&mut self, now: Now, run: RunId, epoch: Epoch) {
        if mutation::is(Mutation::NoTombstone) {
            return;
        }
        self.tombstones.insert(now.boot_us, run, epoch, Grave::Revoked);
        self.journal(Record::Revoked { run, epoch });
    }

    /// Ends runs: one that has not started never will and is reported as cancelled, one that runs is stopped.
    pub fn cancel(&mut self, now: Now, cancels: &[Cancel]) {
        for cancel in cancels {
            match self.held.get(&cancel.run) {
                Some(held) if cancel.epoch < held.epoch => {}
                Some(Held { phase: Phase::Waiting(_), .. }) => self.end_waiting(now, cancel.run, RunState::Cancelled, cancel.reason),
                Some(Held { phase: Phase::Live(_), .. }) => self.stop(cancel.run, Ending::Cancelled(cancel.reason), u64::MAX),
                Some(_) => {}
                None => {
                    if self.tombstones.get(cancel.run).is_none_or(|(known, _)| known < cancel.epoch) {
                        self.bury(now, cancel.run, cancel.epoch);
                    }
                }
            }
        }
    }

    /// Ends a waiting run without starting it.
    pub(super) fn end_waiting(&mut self, now: Now, run: RunId, state: RunState, reason: Reason) {
        if let Some((epoch, waiting)) = self.drop_waiting(run) {
            let outcome = Outcome::unstarted(state, Some(reason), now.wall());
            self.enter_ended(Arc::new(Ended::unstarted(epoch, &waiting.launch, outcome)));
        }
    }

    /// Journals an end and reports it; from here on it is held until the store has it.
    pub(super) fn enter_ended(&mut self, ended: Arc<Ended>) {
        self.journal(Record::Ended(ended.clone()));
        self.hold_ended(ended.clone(), None);
        self.actions.push(Action::ReportEnded(ended));
    }

    pub(super) fn hold_ended(&mut self, ended: Arc<Ended>, closed_at: Option<u64>) {
        self.unreported += u32::from(closed_at.is_none());
        self.closed.extend(closed_at.map(|index| (index, ended.run)));
        self.held.insert(ended.run, Held { epoch: ended.epoch, phase: Phase::Ended { ended, closed_at } });
    }

    /// Asks a live run to end, if nothing has ended it yet; its grace is at most `grace_max_ms`.
    pub(super) fn stop(&mut self, run: RunId, why: Ending, grace_max_ms: u64) {
        let Some(Held { phase: Phase::Live(live), .. }) = self.held.get_mut(&run) else { return };
        if live.ending.is_some() || live.exit.is_some() {
            return;
        }
        live.ending = Some(why);
        if live.process.is_some() {
            let grace_ms = live.waited.launch.task.kill_grace_ms.min(grace_max_ms);
            let token = live.token;
            self.actions.push(Action::Stop { token, grace_ms, why });
        }
    }
}

/// How long an order may be on its way: longer than its sender waits, for it may arrive all the same.
const ORDER_DELAY_US_MAX: i64 = 5_000_000;

/// Converts a stage's start to BOOTTIME, once (PROTOCOL C6): where this machine's wall clock puts the instant, but within `max_skew_ms` of
/// what the sender's duration says. So two good clocks start to the microsecond, and a clock that is off moves nothing far; one that is
/// further off than the order's way explains is not believed at all.
fn start_at_us(now: Now, stage: &Stage) -> i64 {
    let by_wall = now.boot_us + to_us(stage.start_at.since(now.wall())) - now.wall_us.rem_euclid(1000);
    let by_duration = now.boot_us + to_us(stage.in_ms);
    let skew_us = to_us(stage.max_skew_ms.max(0));
    if mutation::is(Mutation::StartsByWall) {
        return by_wall;
    }
    let (earliest, latest) = (by_duration - skew_us, by_duration + skew_us);
    let is_believed = by_wall >= earliest - ORDER_DELAY_US_MAX && by_wall <= latest;
    if is_believed { by_wall.max(earliest) } else { by_duration }
}

/// The sender may say whatever it likes; what comes of it can be computed with.
fn to_us(ms: i64) -> i64 {
    ms.clamp(-ORDER_MS_MAX, ORDER_MS_MAX) * 1000
}
