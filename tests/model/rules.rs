//! What may be taken out of the protocol, and how much of the world a check looks at.

/// The protocol's rules, each of which a test takes out on its own. The names in front are PROTOCOL.md's.
#[derive(Clone, Debug)]
pub struct Rules {
    /// B2: a decision is refused unless the watermark is where its leader saw it.
    pub compare_and_set: bool,
    /// B2: what is staged was applied before, and not just proposed.
    pub stage_after_commit: bool,
    /// C1: a run is given to a session of a worker, and its next session obeys no order for the last one.
    pub sessions: bool,
    /// C1: what was held for a session that is over is dropped before the next one is opened.
    pub drop_unstarted: bool,
    /// C1: a session is opened only by a request that knows the newest one.
    pub open_compare_and_set: bool,
    /// C1: who asks without knowing the newest one, as it missed the answer, is told it.
    pub newest_is_told: bool,
    /// C1: a session that was ended gets no grant any more.
    pub no_grant_after_end: bool,
    /// C2: a worker obeys no lower term than it has seen.
    pub term_check: bool,
    /// C2: what a worker says of an assignment counts for that assignment's epoch only.
    pub epochs: bool,
    /// C3: a grant needs a quorum's word, given after the heartbeat arrived.
    pub grant_after_quorum: bool,
    /// C3: the worker counts from when it sent the heartbeat, not from when the grant came.
    pub lease_from_sending: bool,
    /// C4: a new leader takes every session as granted until its own election.
    pub new_leader_waits: bool,
    /// C5: nothing starts later than the permit.
    pub start_permit: bool,
    /// C5: the guardian ends runs of `retry` jobs when the lease is over.
    pub lease_kills: bool,
    /// C5: it keeps to the last lease that was granted, also when the agent has opened a new session since.
    pub lease_outlives_session: bool,
    /// D1: what a worker's silence proves is counted with a margin for clocks.
    pub margin: bool,
    /// D1: a run moves only on proof that it did not start.
    pub proof_before_move: bool,
    /// D2: a new attempt waits until the guardian has surely ended the last one.
    pub wait_before_attempt: bool,
    /// E1: what was given back stays refused.
    pub tombstone: bool,
    /// E1: `starting` is in the journal before the process is there.
    pub journal_before_spawn: bool,
    /// E2: a new process starts nothing from the journal.
    pub fresh_stage_after_restart: bool,
    /// E2: what may run still is ended before it is reported.
    pub kill_after_restart: bool,
    /// E2: what may have run before a restart is reported as ended.
    pub report_maybe_started: bool,
    /// E3: the check and the spawn are one step.
    pub check_with_spawn: bool,
    /// E4: what has started stays refused, for as long as its stage may come again.
    pub started_stays_known: bool,
    /// E5: a report is acknowledged when its `Close` was applied, and not before.
    pub ack_after_close: bool,
}

impl Rules {
    pub const ALL: Rules = Rules {
        compare_and_set: true,
        stage_after_commit: true,
        sessions: true,
        drop_unstarted: true,
        open_compare_and_set: true,
        newest_is_told: true,
        no_grant_after_end: true,
        term_check: true,
        epochs: true,
        grant_after_quorum: true,
        lease_from_sending: true,
        new_leader_waits: true,
        start_permit: true,
        lease_kills: true,
        lease_outlives_session: true,
        margin: true,
        proof_before_move: true,
        wait_before_attempt: true,
        tombstone: true,
        journal_before_spawn: true,
        fresh_stage_after_restart: true,
        kill_after_restart: true,
        report_maybe_started: true,
        check_with_spawn: true,
        started_stays_known: true,
        ack_after_close: true,
    };
}

/// A moment or a span of time. What counts is their order, so a few are enough.
pub type Tick = u8;

/// How long after its last heartbeat a worker may start runs.
pub const PERMIT: Tick = 2;
/// How long after its last heartbeat a session is over, and its guardian ends runs of `retry` jobs.
pub const LEASE: Tick = 3;
/// By how much two clocks differ, at most, in what they show and in what they count.
pub const MARGIN: Tick = 1;

/// The bounds of one exhaustive check. Within them, everything that can happen in any order does.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Does the job have `on_worker_lost: retry`? Otherwise `wait`.
    pub retry: bool,
    /// The fire's instant.
    pub start: Tick,
    /// The last moment that is looked at.
    pub end: Tick,
    /// May the second leader be elected?
    pub election: bool,
    /// May the job be edited once?
    pub edit: bool,
    /// How often the worker's process dies.
    pub crashes: u8,
    /// What a leader may have proposed and not seen applied.
    pub proposals: usize,
    /// Heartbeats that are answered, after the one that came before everything.
    pub grants: u8,
    /// Is the worker's clock off, and does its rate change once?
    pub skew: bool,
    /// Assignments of the run to the worker, and sessions of the worker, at most.
    pub epochs: u8,
    pub sessions: u8,
    /// By this moment all faults end for good, if one is named. From then on what can be done is done at once.
    pub calm_by: Option<Tick>,
    /// What must be possible, so that the check says something.
    pub examples: &'static [&'static str],
}

impl Scope {
    /// Where nothing happens but a launch.
    pub const QUIET: Scope = Scope {
        retry: false,
        start: 2,
        end: 4,
        election: false,
        edit: false,
        crashes: 0,
        proposals: 1,
        grants: 0,
        skew: false,
        epochs: 1,
        sessions: 1,
        calm_by: None,
        examples: &[],
    };
}
