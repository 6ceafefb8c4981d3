//! The agent's one thread: it owns the table of runs, the journal, the spool, the pipes and the handle to the guardian. It waits for
//! whatever happens first, takes in all that has happened, asks the table what follows, and does it: one turn.
//!
//! In a turn, journal records are written in one call before anything they announce is done and before any answer is sent.
//!
//! It has a runtime of its own, so that nothing else in the process delays a start. Blocking calls in it are file writes to the page cache
//! only. What it leaves out: the network (`service`, `session`, `reports`, on the surrounding runtime).

mod commands;
mod live;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, watch};

use crate::agent::capture::{Capture, Event};
use crate::agent::environment;
use crate::agent::guardian::{self, Guardian, Notice};
use crate::agent::joblog::{JobLog, Lines};
use crate::agent::journal::{Journal, Replay};
use crate::agent::output::{self, Output};
use crate::agent::reports::Outbox;
#[cfg(debug_assertions)]
use crate::agent::runs::Record;
use crate::agent::runs::{Action, Ending, Exit, Launch, OutputPlace, Runs, SpawnFailure, Token};
use crate::agent::spool::Spool;
use crate::agent::timer::{self, Alarm};
use crate::model::OutputPart;
use crate::rpc::wire::{ReadOutput, Refusal};

pub use commands::{AgentStatus, Command, Granted, OutputSource, Reply};
use live::LiveRun;

/// Requests that wait for the driver, at most.
pub const COMMANDS_QUEUED_MAX: usize = 1024;
/// Notices and requests that one turn takes in, at most, so that a flood of one kind doesn't keep the others waiting.
const EVENTS_A_TURN_MAX: usize = 512;
/// How often output of runs that go on is written to the spool.
const FLUSH_US: i64 = 1_000_000;
/// Bytes of one page of a running command's output, which this thread reads itself.
const LIVE_PAGE_BYTES_MAX: u32 = 128 * 1024;

/// What the driver is made of.
pub struct Parts {
    pub runs: Runs,
    pub journal: Journal,
    /// Files of earlier lives, to be removed when what matters of them is written again.
    pub replay: Replay,
    pub spool: Spool,
    pub guardian: Guardian,
    pub notices: mpsc::Receiver<Notice>,
    pub commands: mpsc::Receiver<Command>,
    pub outbox: Arc<Outbox>,
    pub status: watch::Sender<AgentStatus>,
    pub log: JobLog,
}

pub struct Driver {
    parts: Parts,
    capture: Capture,
    alarm: Alarm,
    base: environment::Base,
    live: HashMap<Token, LiveRun>,
    spawns: FuturesUnordered<futures::future::BoxFuture<'static, (Token, Result<guardian::Spawned, guardian::SpawnError>)>>,
    /// Sent when the journal is written.
    answers: Vec<Box<dyn FnOnce()>>,
    flushed_at_us: i64,
}

impl Driver {
    /// Call it in the runtime that it will run in.
    pub fn new(parts: Parts) -> Result<Driver> {
        Ok(Driver {
            parts,
            capture: Capture::new().context("can't watch pipes")?,
            alarm: Alarm::new().context("can't set timers")?,
            base: environment::Base::of_this_user(),
            live: HashMap::new(),
            spawns: FuturesUnordered::new(),
            answers: Vec::new(),
            flushed_at_us: timer::boottime_us(),
        })
    }

    /// Works until `Stop`, or until the agent can't go on: an error that is no one run's.
    pub async fn run(mut self) -> Result<()> {
        self.act()?;
        self.parts.journal.drop_replayed(&self.parts.replay)?;
        loop {
            if !self.take_in().await? {
                break;
            }
            self.parts.runs.tick(timer::now());
            self.flush_outputs();
            self.act()?;
            self.publish();
            self.set_alarm()?;
        }
        self.parts.guardian.shutdown().await;
        Ok(())
    }

    /// Waits until something happens, and takes in what has; false: the agent is to stop.
    async fn take_in(&mut self) -> Result<bool> {
        let first = {
            let Driver { parts, capture, alarm, spawns, .. } = self;
            tokio::select! {
                biased;
                rung = alarm.ring() => { rung.context("the timer failed")?; Taken::Nothing }
                spawned = spawns.next(), if !spawns.is_empty() => {
                    spawned.map_or(Taken::Nothing, |(token, result)| Taken::Spawned(token, result))
                }
                notice = parts.notices.recv() => Taken::Notice(notice),
                command = parts.commands.recv() => Taken::Command(command),
                readable = capture.readable() => { readable.context("can't watch pipes")?; Taken::Nothing }
            }
        };
        let mut is_going_on = match first {
            Taken::Nothing => true,
            Taken::Spawned(token, result) => self.spawned(token, result)?,
            Taken::Notice(notice) => self.notice(notice)?,
            Taken::Command(command) => self.command(command),
        };
        for _ in 0..EVENTS_A_TURN_MAX {
            match futures::FutureExt::now_or_never(self.spawns.next()) {
                Some(Some((token, result))) => is_going_on &= self.spawned(token, result)?,
                Some(None) | None => break,
            }
        }
        self.read_pipes()?;
        for _ in 0..EVENTS_A_TURN_MAX {
            match self.parts.notices.try_recv() {
                Ok(notice) => is_going_on &= self.notice(Some(notice))?,
                Err(_) => break,
            }
        }
        for _ in 0..EVENTS_A_TURN_MAX {
            match self.parts.commands.try_recv() {
                Ok(command) => is_going_on &= self.command(Some(command)),
                Err(_) => break,
            }
        }
        Ok(is_going_on)
    }

    fn spawned(&mut self, token: Token, result: Result<guardian::Spawned, guardian::SpawnError>) -> Result<bool> {
        use guardian::SpawnError;
        let now = timer::now();
        match result {
            Ok(spawned) => {
                failpoint!("worker-after-spawn");
                if let Some(live) = self.live.get_mut(&token) {
                    live.say_started(now.boot_us);
                }
                self.parts.runs.spawned(now, token, spawned.pid, spawned.start_time_ticks, spawned.at.wall);
            }
            Err(SpawnError::TooLate | SpawnError::PermitOver | SpawnError::Revoked) => {
                self.parts.runs.spawn_failed(now, token, SpawnFailure::TooLate);
            }
            Err(error @ (SpawnError::TokenInUse | SpawnError::TooLarge | SpawnError::Io { .. })) => {
                self.parts.runs.spawn_failed(now, token, SpawnFailure::Failed(format!("the command could not be started: {error}")));
            }
            Err(SpawnError::Lost) => return Err(self.guardian_lost()),
        }
        Ok(true)
    }

    /// Nobody holds what was started any more: it is ended here, as far as its start was told.
    fn guardian_lost(&self) -> anyhow::Error {
        for (pid, start_time_ticks) in self.parts.runs.processes() {
            guardian::kill_leftover(pid, start_time_ticks);
        }
        anyhow!("the guardian process has died, and with it the hold on the commands it started: the worker must be started anew")
    }

    fn notice(&mut self, notice: Option<Notice>) -> Result<bool> {
        match notice {
            Some(Notice::Exited { token, end, at }) => {
                let exit = match end {
                    guardian::End::Code(code) => Exit::Code(code),
                    guardian::End::Signal(signal) => Exit::Signal(signal),
                };
                self.parts.runs.exited(timer::now(), token, exit, at.wall);
            }
            Some(Notice::GroupGone { token }) => self.parts.runs.group_gone(timer::now(), token),
            Some(Notice::GuardianLost) | None => return Err(self.guardian_lost()),
        }
        Ok(true)
    }

    /// Obeys a request; false: stop.
    fn command(&mut self, command: Option<Command>) -> bool {
        let (now, runs) = (timer::now(), &mut self.parts.runs);
        match command {
            Some(Command::Stage { order, connection, reply }) => {
                let answer = runs.check(&order, connection).map(|()| runs.stage(now, order.body));
                self.answer(reply, answer);
            }
            Some(Command::Revoke { order, connection, reply }) => {
                let answer = runs.check(&order, connection).map(|()| runs.revoke(now, &order.body));
                self.answer(reply, answer);
            }
            Some(Command::Cancel { order, connection, reply }) => {
                let answer = runs.check(&order, connection).map(|()| runs.cancel(now, &order.body));
                self.answer(reply, answer);
            }
            Some(Command::List { order, connection, reply }) => {
                let answer = runs.check(&order, connection).map(|()| runs.list());
                self.answer(reply, answer);
            }
            Some(Command::ReadOutput { request, reply }) => {
                let answer = self.read_output(&request);
                self.answer(reply, answer);
            }
            Some(Command::Claims { newest, reply }) => {
                runs.lapse(now);
                let claims = runs.claims(newest);
                self.answer(reply, claims);
            }
            Some(Command::Opened { cluster, session, term, granted, reply }) => {
                runs.opened(cluster, session, term);
                runs.granted(now, session, term, granted.permit_end_us, granted.lease_end_us, granted.recorded_up_to);
                self.answer(reply, ());
            }
            Some(Command::Granted { session, term, granted }) => {
                runs.granted(now, session, term, granted.permit_end_us, granted.lease_end_us, granted.recorded_up_to);
            }
            Some(Command::SessionOver { session }) if runs.session() == Some(session) => runs.lapse(now),
            Some(Command::SessionOver { .. }) => {}
            Some(Command::Acknowledged(acknowledged)) => {
                for (run, closed_at) in acknowledged {
                    runs.acknowledged(now, run, closed_at);
                }
            }
            Some(Command::Drain { in_us, grace_max_ms }) => runs.drain(now, in_us, grace_max_ms),
            Some(Command::Stop) | None => return false,
        }
        true
    }

    fn answer<T: 'static>(&mut self, reply: Reply<T>, answer: T) {
        // Whoever asked may have gone; what was done stays done, and the question can be repeated.
        self.answers.push(Box::new(move || drop(reply.send(answer))));
    }

    fn read_output(&mut self, request: &ReadOutput) -> Result<OutputSource, Refusal> {
        match self.parts.runs.cluster() {
            Some(ours) if ours != request.cluster => return Err(Refusal::OtherCluster { ours, theirs: request.cluster }),
            _ => {}
        }
        match self.parts.runs.output_place(request.run) {
            OutputPlace::Unknown => Err(Refusal::UnknownRun(request.run)),
            OutputPlace::NotYet => Ok(OutputSource::NotYet),
            OutputPlace::Ended(ended) => Ok(self.closed_output(request, ended.output.as_deref(), true)),
            OutputPlace::Closed(inline) => Ok(self.closed_output(request, inline.as_deref(), false)),
            OutputPlace::Live(token) => {
                let live = self.live.get_mut(&token).ok_or(Refusal::UnknownRun(request.run))?;
                let bytes_max = u64::from(request.bytes_max.min(LIVE_PAGE_BYTES_MAX));
                let page = live.output.read(request.from, bytes_max).map_err(|error| Refusal::Failed(error.to_string()))?;
                if !page.parts.is_empty() {
                    return Ok(OutputSource::Page(page));
                }
                let readable = live.output.readable();
                let readable = live.readable.get_or_insert_with(|| watch::Sender::new(readable)).subscribe();
                Ok(OutputSource::Growing { page, readable })
            }
        }
    }

    fn closed_output(&self, request: &ReadOutput, inline: Option<&[OutputPart]>, has_ended: bool) -> OutputSource {
        match inline {
            Some(parts) => {
                let mut page = output::read_inline(parts, request.from, u64::from(request.bytes_max));
                page.is_complete &= has_ended;
                OutputSource::Page(page)
            }
            None => OutputSource::Spooled { path: self.parts.spool.path(request.run), has_ended },
        }
    }

    fn read_pipes(&mut self) -> Result<()> {
        let Driver { capture, live, parts, .. } = self;
        let now_us = timer::boottime_us();
        let mut closed = Vec::new();
        capture
            .read_ready(|event| match event {
                Event::Data(token, stream, bytes) => {
                    if let Some(run) = live.get_mut(&token) {
                        run.push(&mut parts.spool, now_us, stream, bytes);
                    }
                }
                Event::Closed(token) => closed.push(token),
            })
            .context("can't read a command's output")?;
        for token in closed {
            self.finish_output(token);
        }
        Ok(())
    }

    fn finish_output(&mut self, token: Token) {
        if let Some(live) = self.live.remove(&token) {
            let captured = live.finish(&mut self.parts.spool);
            self.parts.runs.captured(token, captured);
        }
    }

    /// Writes what runs that go on have said to the spool, now and again.
    fn flush_outputs(&mut self) {
        let now_us = timer::boottime_us();
        if now_us - self.flushed_at_us < FLUSH_US {
            return;
        }
        self.flushed_at_us = now_us;
        for live in self.live.values_mut().filter(|live| now_us - live.asked_at_us >= FLUSH_US) {
            live.output.flush(&mut self.parts.spool);
        }
    }

    fn set_alarm(&mut self) -> Result<()> {
        let flush = (!self.live.is_empty()).then_some(self.flushed_at_us + FLUSH_US);
        let due = [self.parts.runs.next_deadline_us(timer::now()), flush].into_iter().flatten().min();
        self.alarm.set(due).context("can't set the timer")
    }

    /// Does what the table asks for, until it asks for nothing more.
    fn act(&mut self) -> Result<()> {
        loop {
            let trouble = self.parts.spool.trouble();
            self.parts.runs.set_trouble(trouble.map(Arc::from));
            let actions = self.parts.runs.take_actions();
            for action in &actions {
                if let Action::Journal(record) = action {
                    self.parts.journal.append(record)?;
                }
            }
            self.parts.journal.write()?;
            failpoint!("worker-after-accepted", has_written(&actions, |record| matches!(record, Record::Accepted { .. })));
            failpoint!("worker-after-starting", has_written(&actions, |record| matches!(record, Record::Starting { .. })));
            failpoint!("worker-after-ended", has_written(&actions, |record| matches!(record, Record::Ended(_))));
            failpoint!("worker-after-revoked", has_written(&actions, |record| matches!(record, Record::Revoked { .. })));
            for answer in self.answers.drain(..) {
                answer();
            }
            if actions.is_empty() {
                return self.rotate_journal();
            }
            for action in actions {
                self.perform(action)?;
            }
        }
    }

    fn rotate_journal(&mut self) -> Result<()> {
        if !self.parts.journal.wants_rotation() {
            return Ok(());
        }
        let runs = &self.parts.runs;
        self.parts.journal.rotate(&runs.head_records(), |run| runs.records_of(run))
    }

    fn perform(&mut self, action: Action) -> Result<()> {
        let Parts { guardian, outbox, spool, .. } = &mut self.parts;
        match action {
            Action::Journal(_) | Action::SessionOver => {}
            Action::Spawn { token, launch, not_after_us, late_us } => self.spawn(token, launch, not_after_us, late_us),
            Action::Stop { token, grace_ms, why } => {
                guardian.stop(token, grace_ms);
                if let Some(Launch { run, job_name, .. }) = self.live.get(&token).map(|live| &*live.launch) {
                    let why = match why {
                        Ending::TimedOut => "its time is over",
                        Ending::Cancelled(reason) => reason.name(),
                        Ending::LeaseOver => "its worker's lease is over",
                    };
                    self.parts.log.event(|| format!("job {job_name:?} run {run} is stopped: {why}"));
                }
            }
            Action::DiscardOutput { token } => {
                self.capture.close(token);
                if let Some(live) = self.live.remove(&token) {
                    live.output.discard(spool);
                }
            }
            Action::CloseOutput { token } => {
                let (live, now_us) = (&mut self.live, timer::boottime_us());
                let read = self.capture.read_rest(token, |event| {
                    if let Event::Data(token, stream, bytes) = event
                        && let Some(run) = live.get_mut(&token)
                    {
                        run.push(spool, now_us, stream, bytes);
                    }
                });
                read.context("can't read a command's output")?;
                self.capture.close(token);
                self.finish_output(token);
            }
            Action::ReportStarted { run, epoch, at } => outbox.started(run, epoch, at),
            Action::ReportEnded(ended) => {
                spool.hold_inline(ended.inline_bytes());
                self.parts.log.event(|| live::end_line(&ended));
                self.parts.outbox.ended(ended);
            }
            Action::ReportAgain(ended) => outbox.ended(ended),
            Action::Forget(ended) => {
                spool.release_inline(ended.inline_bytes());
                if ended.spooled_bytes > 0 {
                    spool.remove(ended.run, ended.spooled_bytes);
                }
            }
            Action::SetLease { permit_end_us, lease_end_us } => guardian.set_lease(boot_ms(permit_end_us), boot_ms(lease_end_us)),
        }
        Ok(())
    }

    /// Asks the guardian for a process whose outputs are two new pipes.
    fn spawn(&mut self, token: Token, launch: Arc<Launch>, not_after_us: i64, late_us: i64) {
        let now = timer::now();
        let [stdout, stderr] = match self.capture.open(token) {
            Ok(ends) => ends,
            Err(error) => {
                self.capture.close(token);
                let text = format!("the command could not be started: no pipes for its output: {error}");
                self.parts.runs.spawn_failed(now, token, SpawnFailure::Failed(text));
                return;
            }
        };
        let order = guardian::Spawn {
            token,
            command: launch.task.command.clone(),
            env: self.base.of_run(&launch),
            cwd: launch.task.working_dir.clone(),
            stdout,
            stderr,
            not_after_boot_ms: boot_ms(not_after_us),
            kill_on_lease_end: launch.task.ends_with_lease,
            kill_grace_ms: launch.task.kill_grace_ms,
        };
        let guardian = self.parts.guardian.clone();
        self.spawns.push(Box::pin(async move { (token, guardian.spawn(order).await) }));
        let live = LiveRun {
            late_us,
            asked_at_us: now.boot_us,
            log: self.parts.log.clone(),
            is_start_said: false,
            output: Output::new(launch.run, launch.task.max_output_bytes),
            lines: Lines::new(&self.parts.log, &launch.job_name, launch.run, now.boot_us),
            readable: None,
            launch,
        };
        self.live.insert(token, live);
    }

    fn publish(&self) {
        let runs = &self.parts.runs;
        self.parts.status.send_if_modified(|status| {
            let (counts, trouble) = (runs.counts(), runs.trouble());
            let is_same = status.counts == counts
                && status.session == runs.session()
                && status.cluster == runs.cluster()
                && status.is_draining == runs.is_draining()
                && status.trouble == trouble;
            if !is_same {
                *status =
                    AgentStatus { cluster: runs.cluster(), session: runs.session(), counts, is_draining: runs.is_draining(), trouble };
            }
            !is_same
        });
    }
}

enum Taken {
    Nothing,
    Spawned(Token, Result<guardian::Spawned, guardian::SpawnError>),
    Notice(Option<Notice>),
    Command(Option<Command>),
}

/// Whether such a record was among what was written.
#[cfg(debug_assertions)]
fn has_written(actions: &[Action], is_such: impl Fn(&Record) -> bool) -> bool {
    actions.iter().any(|action| matches!(action, Action::Journal(record) if is_such(record)))
}

fn boot_ms(boot_us: i64) -> u64 {
    u64::try_from(boot_us / 1000).unwrap_or(0)
}
