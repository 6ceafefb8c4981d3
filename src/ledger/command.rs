//! The commands, what they answer, and what they touch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{ClusterId, Epoch, Job, JobId, Outcome, Reason, Revision, RunId, SessionId, Trigger, UnixMs, WorkerId};

/// One change of the ledger. The order of variants and fields is a format (`entry`): append, never insert.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Names the cluster; the first one counts.
    Found {
        cluster: ClusterId,
    },
    /// A job as the feed brought it (PROTOCOL A2).
    PutJob(Box<Job>),
    /// The feed says that a job was deleted.
    DropJob {
        id: JobId,
        revision: Revision,
        effective_from: UnixMs,
        change_seq: u64,
    },
    Decide(Decide),
    /// Rules on fires that wait for an open run.
    Resolve {
        at: UnixMs,
        fires: Vec<(JobId, UnixMs, RunId, WaitingFate)>,
    },
    /// Begins a life of a worker; its session is named by this entry's index. Says what the worker's journal proves of earlier lives.
    OpenSession {
        at: UnixMs,
        worker: WorkerId,
        data_dir: Uuid,
        address: String,
        labels: BTreeMap<String, String>,
        slots: u32,
        not_started: Vec<(RunId, Epoch)>,
        held: Vec<(RunId, Epoch)>,
        /// Runs that are not named, and whose start lies beyond this instant, can't have started (PROTOCOL D1): all of them if the journal
        /// is whole.
        unstarted_after: UnixMs,
        /// The session that this one follows, in the same data directory. Refused if there has been a newer one since: what is said was
        /// true before that (PROTOCOL C1).
        previous: Option<SessionId>,
    },
    /// A session's lease is surely out. Its runs whose start lies beyond this instant can't have started (PROTOCOL D1); of the others
    /// only the worker knows.
    EndSession {
        at: UnixMs,
        session: SessionId,
        unstarted_after: UnixMs,
    },
    /// Gives an open run that nobody has to a session.
    Assign {
        runs: Vec<(RunId, SessionId)>,
    },
    /// A run is proved not to have started under this epoch, and never to start under it (PROTOCOL D1).
    Unstarted {
        at: UnixMs,
        runs: Vec<(RunId, Epoch, Then)>,
    },
    /// A manual run.
    Trigger {
        at: UnixMs,
        job: JobId,
        run: RunId,
        has_key: bool,
        session: Option<SessionId>,
    },
    /// Somebody wants a run to end.
    Cancel {
        at: UnixMs,
        run: RunId,
        reason: Reason,
    },
    /// Runs have ended.
    Close {
        at: UnixMs,
        runs: Vec<Closing>,
    },
    /// The true outcome of a run that was recorded as lost, as its row should read (PROTOCOL F3).
    Correct {
        at: UnixMs,
        run: Box<crate::model::Run>,
    },
    /// The store has everything that closed at or below this index (PROTOCOL F2).
    Recorded {
        up_to: u64,
    },
    /// Sessions that are over and that no run refers to.
    ForgetSessions {
        sessions: Vec<SessionId>,
    },
}

/// All fires in (from, to] get their fate (PROTOCOL B2). A part of a batch that is too large for one entry has `to == from`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Decide {
    /// The proposer's clock.
    pub at: UnixMs,
    /// Compared with the watermark, which then becomes `to`.
    pub from: UnixMs,
    pub to: UnixMs,
    /// Compared with the feed's position: fires were computed from the jobs as of this change.
    pub feed: u64,
    pub fires: Vec<Fire>,
    pub skips: Vec<Skip>,
    /// Spans that were owed and are decided herewith, up to an instant each.
    pub settled: Vec<(JobId, Revision, UnixMs)>,
    /// Compared with the index of the last decision: parts that leave the watermark where it is follow each other too.
    pub after: u64,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Fire {
    pub job: JobId,
    pub revision: Revision,
    pub scheduled_at: UnixMs,
    /// `Schedule` or `CatchUp`.
    pub trigger: Trigger,
    pub fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub enum Fate {
    /// Open a run, for this session if it still stands.
    Launch { session: Option<SessionId> },
    /// Its fate depends on a run that is open; decide at its instant.
    Defer,
}

/// Consecutive fires of a job that are not launched, one row for all (PROTOCOL B9).
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Skip {
    pub job: JobId,
    pub revision: Revision,
    /// The first and the last fire's instants.
    pub from: UnixMs,
    pub to: UnixMs,
    pub count: u64,
    pub reason: Reason,
}

/// What becomes of a fire that waits.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub enum WaitingFate {
    Launch {
        session: Option<SessionId>,
    },
    /// Launch, as one that comes late by `catch_up`.
    CatchUp {
        session: Option<SessionId>,
    },
    Skip {
        reason: Reason,
    },
    /// Wait until the open run has ended (`queue_one`).
    Queue,
    /// End the open run, then launch (`replace`, PROTOCOL B8).
    Replace,
}

/// What becomes of a run that did not start.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub enum Then {
    /// Nobody has it; another session may get it.
    Requeue,
    /// The revision to which its instant belongs fires then too: the same run, by that revision.
    Relaunch { revision: Revision, session: Option<SessionId> },
    /// It is skipped; computed while its instant belonged to this revision (none: to its own one still, or to nobody).
    Skip { reason: Reason, heir: Option<Revision> },
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Closing {
    pub run: RunId,
    pub epoch: Epoch,
    pub outcome: Outcome,
}

/// What a command answers to its proposer. A format: a follower passes commands on to the leader, and gets the replies back.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Reply {
    Done,
    /// The premise does not hold; nothing was changed. For `Decide`: the watermark or the feed has moved.
    Refused,
    Session(SessionId),
    /// Of a `Trigger`: whether this run is new.
    Triggered {
        is_new: bool,
    },
    NoSuchJob,
    NoSuchRun,
    /// Of a `Close`: for each run the index at which it closed; 0 where the ledger no longer knows the run.
    Closed(Vec<u64>),
}

/// Something that a command touched; whoever is told looks at the ledger for what it is now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Effect {
    Job(JobId),
    Run(RunId),
    /// The waiting fires of a job, or whether something lets them go on.
    Waiting(JobId),
    Owed(JobId),
    Session(SessionId),
    /// Something waits to be recorded, or no longer does.
    Unrecorded,
}
