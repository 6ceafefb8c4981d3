//! What the guardian decides: may this start, what ends now, and what the agent is told. It reads the clock and sends signals, and leaves
//! reading and writing of the link to `process`.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use super::command::{Command, Failure};
use super::frames::{self, Outbox, breach};
use super::messages::{End, Order, Refusal, Report, SpawnOrder};
use super::runs::Runs;
use super::spawn::{Done, Started, Starts};
use crate::agent::clock::{Moment, boottime_ms};

/// Tokens remembered of each sort (revoked; ended). Only a revoke or a spawn on its way at the same time asks for them, and no more than
/// the client's window of spawns is on its way.
const TOKENS_REMEMBERED_MAX: usize = 32_768;

/// What an order asks of the loop.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Next {
    Continue,
    /// A process was made, which takes as long as much else together: look after the others now and then.
    Spawned,
    Shutdown,
}

pub(super) struct Ward {
    pub starts: Starts,
    runs: Runs,
    pub out: Outbox,
    permit_end_boot_ms: u64,
    lease_end_boot_ms: u64,
    is_lease_end_handled: bool,
    revoked: Remembered,
    ended: Remembered,
}

impl Ward {
    /// Without a lease nothing starts.
    pub fn new() -> Ward {
        Ward {
            starts: Starts::default(),
            runs: Runs::default(),
            out: Outbox::default(),
            permit_end_boot_ms: 0,
            lease_end_boot_ms: 0,
            is_lease_end_handled: true,
            revoked: Remembered::default(),
            ended: Remembered::default(),
        }
    }

    pub fn groups(&self) -> impl Iterator<Item = Pid> {
        self.runs.groups()
    }

    pub fn report(&mut self, report: &Report) -> io::Result<()> {
        frames::append(&mut self.out.bytes, report)
    }

    /// Obeys one frame. An error is a breach of the protocol.
    pub fn obey(&mut self, frame: &[u8], fds: &mut VecDeque<OwnedFd>) -> io::Result<Next> {
        let order = postcard::from_bytes(frame).map_err(|_| breach("an order that can't be read"))?;
        let now = boottime_ms();
        match order {
            Order::Spawn(order) => {
                let (Some(stdout), Some(stderr)) = (fds.pop_front(), fds.pop_front()) else {
                    return Err(breach("a spawn order without its descriptors"));
                };
                self.spawn(&order, [&stdout, &stderr])?;
                return Ok(Next::Spawned);
            }
            Order::Stop { token, grace_ms } => self.runs.stop(token, grace_ms, now),
            Order::Kill { token } => self.runs.kill(token, now),
            Order::Revoke { token } => self.revoke(token)?,
            Order::SetLease { permit_end_boot_ms, lease_end_boot_ms } => {
                self.permit_end_boot_ms = permit_end_boot_ms;
                self.lease_end_boot_ms = lease_end_boot_ms;
                self.is_lease_end_handled = false;
            }
            Order::Shutdown => return Ok(Next::Shutdown),
        }
        Ok(Next::Continue)
    }

    /// The one step of PROTOCOL E3: nothing comes between the check and the start.
    fn spawn(&mut self, order: &SpawnOrder<'_>, output: [&OwnedFd; 2]) -> io::Result<()> {
        let token = order.token;
        let deadline_boot_ms = order.not_after_boot_ms.min(self.permit_end_boot_ms).min(self.lease_end_boot_ms);
        let command = Command::new(order);
        let started = match self.refusal(order) {
            Some(refusal) => Err(refusal),
            None => command.and_then(|command| self.starts.start(token, command, output, deadline_boot_ms)).map_err(Refusal::from),
        };
        match started {
            Ok(Started { pid, .. }) => match self.runs.insert(token, pid, order.kill_on_lease_end, order.kill_grace_ms) {
                Some(gone) => self.group_gone(gone),
                None => Ok(()),
            },
            Err(refusal) => self.report(&Report::Refused { token, refusal }),
        }
    }

    /// Reports the starts that have come to their end. The process of a failed one is reaped like an orphan.
    pub fn settle(&mut self) -> io::Result<()> {
        for Done { token, outcome } in self.starts.take_done() {
            match outcome {
                Ok(Started { pid, start_time_ticks, at }) => {
                    let pid = pid.as_raw_nonzero().get().unsigned_abs();
                    self.report(&Report::Spawned { token, pid, start_time_ticks, at })?;
                }
                Err(failure) => {
                    self.runs.remove(token);
                    self.report(&Report::Refused { token, refusal: failure.into() })?;
                }
            }
        }
        Ok(())
    }

    fn refusal(&self, order: &SpawnOrder<'_>) -> Option<Refusal> {
        if self.revoked.contains(order.token) {
            return Some(Refusal::Revoked);
        }
        if self.runs.contains(order.token) || self.ended.contains(order.token) {
            return Some(Refusal::TokenInUse);
        }
        let now = boottime_ms();
        if now > order.not_after_boot_ms {
            return Some(Refusal::TooLate);
        }
        (now > self.permit_end_boot_ms || now > self.lease_end_boot_ms).then_some(Refusal::PermitOver)
    }

    fn revoke(&mut self, token: u64) -> io::Result<()> {
        let prevented = !self.runs.contains(token) && !self.ended.contains(token);
        if prevented {
            self.revoked.insert(token);
        }
        self.report(&Report::Revoked { token, prevented })
    }

    /// Reaps whatever has ended, runs and orphans, and reports it.
    pub fn reap(&mut self) -> io::Result<()> {
        let mut main_ended = Vec::new();
        let mut has_orphan = false;
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => match self.runs.reaped(pid) {
                    Some(token) => main_ended.push((token, end_of(status))),
                    None => has_orphan = true,
                },
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => break,
            }
        }
        if main_ended.is_empty() && !has_orphan {
            return Ok(());
        }
        // Whoever has ended has also left the guardian's memory: its start is told before its end.
        self.settle()?;
        // Only now, so that a group's last members, reaped in the same round, don't make it look alive.
        let at = Moment::now();
        for (token, end) in main_ended {
            if !self.runs.contains(token) {
                continue; // it never became its command
            }
            self.report(&Report::Exited { token, end, at })?;
            if self.runs.is_gone_with_main(token, at.boot_ms) {
                self.group_gone(token)?;
            }
        }
        if has_orphan && self.runs.has_lingering() {
            self.report_gone(at.boot_ms)?;
        }
        Ok(())
    }

    /// Does what the clock asks for.
    pub fn handle_due(&mut self) -> io::Result<()> {
        let now = boottime_ms();
        if !self.is_lease_end_handled && now > self.lease_end_boot_ms {
            self.is_lease_end_handled = true;
            self.runs.stop_marked(now);
        }
        self.runs.kill_due(now);
        if self.runs.is_check_due(now) {
            self.report_gone(now)?;
        }
        Ok(())
    }

    /// When [`Ward::handle_due`] is to be called next; CLOCK_BOOTTIME in milliseconds.
    pub fn next_due_boot_ms(&self) -> Option<u64> {
        // "After the lease" begins with the millisecond that follows it.
        let lease = (!self.is_lease_end_handled).then(|| self.lease_end_boot_ms.saturating_add(1));
        lease.into_iter().chain(self.runs.next_due_boot_ms()).min()
    }

    fn report_gone(&mut self, now: u64) -> io::Result<()> {
        for token in self.runs.take_gone(now) {
            self.group_gone(token)?;
        }
        Ok(())
    }

    fn group_gone(&mut self, token: u64) -> io::Result<()> {
        self.ended.insert(token);
        self.report(&Report::GroupGone { token })
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        match failure {
            Failure::TooLate => Refusal::TooLate,
            Failure::Error { errno, text } => Refusal::Failed { errno, text },
        }
    }
}

fn end_of(status: WaitStatus) -> End {
    match status.terminating_signal() {
        Some(signal) => End::Signal(signal),
        None => End::Code(status.exit_status().unwrap_or(0)),
    }
}

/// The last [`TOKENS_REMEMBERED_MAX`] tokens put in.
#[derive(Default)]
struct Remembered {
    tokens: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Remembered {
    fn contains(&self, token: u64) -> bool {
        self.tokens.contains(&token)
    }

    fn insert(&mut self, token: u64) {
        if !self.tokens.insert(token) {
            return;
        }
        self.order.push_back(token);
        if self.order.len() > TOKENS_REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.tokens.remove(&oldest);
        }
    }
}
