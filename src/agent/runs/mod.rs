//! The table of a worker's runs: every decision about what starts, what is stopped and what is reported. Pure: told what happened and
//! when, it answers with actions; no clock, no IO.
//!
//! Invariants
//! - A run starts at most once under one epoch, in order of its instant, in a free slot, while the session is open, the permit holds and
//!   nothing is drained (PROTOCOL C2, C5). `Starting` is in the journal before the spawn is asked for.
//! - What was revoked never starts in this session; the tombstone is in the journal before the acknowledgement (D1, E1).
//! - A run's slot is free again when its process group is gone. It has ended when that, the end of its main process and the end of its
//!   output are all known. Its report is repeated (by the reporter) until acknowledged; it is held until the store has it (E4).
//! - When the lease is over, unstarted runs are dropped before anything else; what runs is adopted by the next session (C1).
//! - Everything held is bounded by `Limits::held_max`; stages beyond it are declined.
//!
//! Left out: processes (the guardian's), output (`output`), the wire (`service`, `session`), files (`journal`, `spool`).
//!
//! The driver carries out `take_actions` after every call, all journal records first.

mod orders;
mod progress;
mod sessions;
#[cfg(test)]
mod tests;
mod tombstones;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{ClusterId, Epoch, OutputPart, RunId, SessionId, UnixMs};
use crate::rpc::wire::{HeldPhase, HeldRun};

pub use sessions::Claims;
use tombstones::{Grave, Tombstones};
pub use words::{Action, Captured, Ended, Ending, Exit, Launch, Now, Record, SpawnFailure, Token};

/// How long the pipes of a run may stay open after its process group is gone: a daemon that left the group holds them.
pub const LINGER_US: i64 = 500_000;

/// What a worker may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Commands that run at once, at most.
    pub slots: u32,
    /// Runs held in any phase, ended and not recorded ones included, at most.
    pub held_max: usize,
}

/// What the worker as a whole does, for heartbeats and status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Runs that hold a slot.
    pub running: u32,
    /// Accepted, not started.
    pub waiting: u32,
    /// Started or about to, and not ended.
    pub live: u32,
    /// Ended, report not acknowledged.
    pub unreported: u32,
    /// All of it, ended and not recorded ones included.
    pub held: u32,
}

pub struct Runs {
    limits: Limits,
    cluster: Option<ClusterId>,
    session: Option<SessionId>,
    /// The last session of this data directory that is over.
    previous: Option<SessionId>,
    /// The highest term seen, and the newest connection over which it gave orders.
    term: u64,
    connection: u64,
    permit_end_us: i64,
    lease_end_us: i64,
    recorded_up_to: u64,
    /// What the journal doesn't mention has not been started in this session or the last one (PROTOCOL E1).
    journal_is_whole: bool,
    drain: Drain,
    /// Why stages are declined, if they are.
    trouble: Option<Arc<str>>,

    held: BTreeMap<RunId, Held>,
    /// Waiting runs by the BOOTTIME of their start, then by arrival.
    queue: BTreeSet<(i64, u64, RunId)>,
    /// Waiting runs by the BOOTTIME after which they may not start.
    expiries: BTreeSet<(i64, RunId)>,
    tokens: BTreeMap<Token, RunId>,
    timers: BTreeSet<(i64, Token, Timer)>,
    /// Acknowledged runs by the index at which they were closed.
    closed: BTreeSet<(u64, RunId)>,
    tombstones: Tombstones,
    slots_taken: u32,
    unreported: u32,
    next_token: Token,
    next_arrival: u64,
    actions: Vec<Action>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Drain {
    No,
    /// Nothing starts; at this BOOTTIME what runs is stopped, with at most that grace.
    Until {
        stop_at_us: i64,
        grace_max_ms: u64,
    },
    /// What ran has been told to stop.
    Stopped {
        grace_max_ms: u64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Timer {
    TimeOut,
    Linger,
}

struct Held {
    epoch: Epoch,
    phase: Phase,
}

enum Phase {
    Waiting(Waiting),
    /// Starting, running, or gone with its output still open.
    Live(Box<Live>),
    Ended {
        ended: Arc<Ended>,
        closed_at: Option<u64>,
    },
}

struct Waiting {
    launch: Arc<Launch>,
    start_at_us: i64,
    arrival: u64,
    not_after_us: Option<i64>,
}

struct Live {
    token: Token,
    waited: Waiting,
    process: Option<Process>,
    /// When the time-out strikes; none before the start, without a limit, and once it is of no more use.
    time_out_at_us: Option<i64>,
    linger_until_us: Option<i64>,
    ending: Option<Ending>,
    exit: Option<(Exit, UnixMs)>,
    group_gone: bool,
    captured: Option<Captured>,
}

#[derive(Clone, Copy)]
struct Process {
    pid: u32,
    start_time_ticks: u64,
    at: UnixMs,
}

impl Runs {
    /// An empty table, for a data directory that belongs to `cluster` and had `previous` as its last session.
    pub fn new(limits: Limits, cluster: Option<ClusterId>, previous: Option<SessionId>) -> Runs {
        Runs {
            limits,
            cluster,
            session: None,
            previous,
            term: 0,
            connection: 0,
            permit_end_us: i64::MIN,
            lease_end_us: i64::MIN,
            recorded_up_to: 0,
            journal_is_whole: true,
            drain: Drain::No,
            trouble: None,
            held: BTreeMap::new(),
            queue: BTreeSet::new(),
            expiries: BTreeSet::new(),
            tokens: BTreeMap::new(),
            timers: BTreeSet::new(),
            closed: BTreeSet::new(),
            tombstones: Tombstones::default(),
            slots_taken: 0,
            unreported: 0,
            next_token: 1,
            next_arrival: 0,
            actions: Vec::new(),
        }
    }

    /// What is to be done, in order; the driver writes all `Journal` records before it does anything else of the list.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The BOOTTIME at which `tick` has something to do, if nothing else happens before.
    pub fn next_deadline_us(&self, now: Now) -> Option<i64> {
        // Without slot or permit, it is not time that a start waits for.
        let may_start = |at: &i64| self.may_start() && now.boot_us.max(*at) < self.permit_end_us;
        let start = self.queue.first().map(|(at, _, _)| *at).filter(may_start);
        let timer = self.timers.first().map(|(at, _, _)| *at);
        let expiry = self.expiries.first().map(|(at, _)| *at + 1);
        let lease = self.session.map(|_| self.lease_end_us);
        let drain = match self.drain {
            Drain::Until { stop_at_us, .. } => Some(stop_at_us),
            Drain::No | Drain::Stopped { .. } => None,
        };
        [start, timer, expiry, lease, drain].into_iter().flatten().min()
    }

    pub fn counts(&self) -> Counts {
        Counts {
            running: self.slots_taken,
            waiting: self.queue.len() as u32,
            live: self.tokens.len() as u32,
            unreported: self.unreported,
            held: self.held.len() as u32,
        }
    }

    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    pub fn is_draining(&self) -> bool {
        self.drain != Drain::No
    }

    /// Declines stages from now on for this reason, or takes them again.
    pub fn set_trouble(&mut self, trouble: Option<Arc<str>>) {
        self.trouble = trouble;
    }

    /// Why stages are declined, if they are.
    pub fn trouble(&self) -> Option<Arc<str>> {
        if self.held.len() >= self.limits.held_max {
            return Some(Arc::from(format!("holds {} runs, the most it can", self.held.len())));
        }
        self.trouble.clone()
    }

    /// Where the output of a held run is to be found.
    pub fn output_place(&self, run: RunId) -> OutputPlace {
        match self.held.get(&run).map(|held| &held.phase) {
            None => OutputPlace::Unknown,
            Some(Phase::Waiting(_)) => OutputPlace::NotYet,
            Some(Phase::Live(live)) => match &live.captured {
                None => OutputPlace::Live(live.token),
                Some(captured) => OutputPlace::Closed(captured.inline.clone()),
            },
            Some(Phase::Ended { ended, .. }) => OutputPlace::Ended(ended.clone()),
        }
    }

    /// The processes of runs that have been started and have not ended: process id and start time, as the guardian said them.
    pub fn processes(&self) -> impl Iterator<Item = (u32, u64)> {
        let process = |run: &RunId| match &self.held.get(run)?.phase {
            Phase::Live(live) => live.process.map(|process| (process.pid, process.start_time_ticks)),
            Phase::Waiting(_) | Phase::Ended { .. } => None,
        };
        self.tokens.values().filter_map(process)
    }

    /// All that this session holds, tombstones of what was revoked included.
    pub fn list(&self) -> Vec<HeldRun> {
        let held = self.held.iter().map(|(run, held)| {
            let phase = match &held.phase {
                Phase::Waiting(_) => HeldPhase::Waiting,
                Phase::Live(live) => match live.process {
                    Some(process) => HeldPhase::Running { started_at: process.at },
                    None => HeldPhase::Running { started_at: live.waited.launch.scheduled_at },
                },
                Phase::Ended { .. } => HeldPhase::Ended,
            };
            HeldRun { run: *run, epoch: held.epoch, phase }
        });
        held.chain(self.tombstones.revoked().map(|(run, epoch)| HeldRun { run, epoch, phase: HeldPhase::Revoked })).collect()
    }

    /// The records from which the journal rebuilds what is known of a run; nothing if it is no longer of interest.
    pub fn records_of(&self, run: RunId) -> Vec<Record> {
        let Some(held) = self.held.get(&run) else {
            return match self.tombstones.get(run) {
                Some((epoch, Grave::Revoked)) => vec![Record::Revoked { run, epoch }],
                Some((_, Grave::Finished)) | None => Vec::new(),
            };
        };
        match &held.phase {
            Phase::Waiting(waiting) => vec![accepted(held.epoch, &waiting.launch)],
            Phase::Live(live) => {
                let mut records = vec![accepted(held.epoch, &live.waited.launch), Record::Starting { run }];
                records.extend(live.process.map(|process| process.record(run)));
                records
            }
            Phase::Ended { ended, closed_at } => {
                let mut records = vec![Record::Ended(ended.clone())];
                records.extend(closed_at.map(|closed_at| Record::Acknowledged { run, closed_at }));
                records
            }
        }
    }

    fn journal(&mut self, record: Record) {
        self.actions.push(Action::Journal(record));
    }
}

/// Where the output of a run is to be found.
#[derive(Clone, PartialEq, Debug)]
pub enum OutputPlace {
    Unknown,
    /// The run waits for its instant.
    NotYet,
    Live(Token),
    /// The command has closed its outputs and goes on. All of it, or none if it is in the spool.
    Closed(Option<Vec<OutputPart>>),
    Ended(Arc<Ended>),
}

impl Process {
    fn record(self, run: RunId) -> Record {
        Record::Started { run, pid: self.pid, start_time_ticks: self.start_time_ticks, at: self.at }
    }
}

fn accepted(epoch: Epoch, launch: &Launch) -> Record {
    Record::Accepted { run: launch.run, epoch, job: launch.job, job_name: launch.job_name.clone() }
}

impl Ended {
    /// The end of a run that never started.
    fn unstarted(epoch: Epoch, launch: &Launch, outcome: crate::model::Outcome) -> Ended {
        Ended {
            run: launch.run,
            epoch,
            job: launch.job,
            job_name: launch.job_name.clone(),
            outcome,
            output: Some(Vec::new()),
            spooled_bytes: 0,
        }
    }
}
