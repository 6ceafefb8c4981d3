//! Deliberate bugs, one for each rule that can be taken out by itself: they show that the simulation would notice. A test switches one on
//! for its own thread; neither an environment nor a flag can, and a release build has none.

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mutation {
    /// PROTOCOL B1: a leader decides before it has applied an entry of its own term.
    LicenceAtElection,
    /// PROTOCOL B2: a decision is applied whatever the watermark is.
    NoCompareAndSet,
    /// PROTOCOL B2: of a decision in parts, any part is applied that fits the watermark.
    PartsNotCompared,
    /// PROTOCOL B2: what was proposed is staged, not what was applied.
    StagesProposals,
    /// PROTOCOL B2: the watermark ends up one second too far.
    WatermarkTooFar,
    /// PROTOCOL B3: a job that comes late owes nothing.
    NoLateFloor,
    /// PROTOCOL B4: an instant that has its fate is decided again.
    DecidesAgain,
    /// PROTOCOL B5: an edit leaves unstarted runs of the revision before alone.
    NoTakingBack,
    /// PROTOCOL B7: whoever proposed a launch is believed that no run is open.
    OverlapNotChecked,
    /// PROTOCOL B8: the new run does not wait for the end of the one that it replaces.
    ReplacesAtOnce,
    /// PROTOCOL B10: deciding goes on whatever waits to be recorded.
    NoBound,
    /// PROTOCOL C1: an order to open a session is applied although there has been a newer one.
    StaleSessionOpens,
    /// PROTOCOL C1, C2: orders for another session are obeyed.
    SessionNotChecked,
    /// PROTOCOL C2: orders of a lower term are obeyed.
    TermNotChecked,
    /// PROTOCOL C2, D1: epochs count the assignments of a run from 1, also where the ledger has known a run of that id before.
    ReusesEpochs,
    /// PROTOCOL C3: who thinks that it leads grants.
    GrantsWithoutQuorum,
    /// PROTOCOL C3: a lease counts from when its grant came.
    LeaseFromReceipt,
    /// PROTOCOL C4: a new leader takes its own silence for the worker's.
    NewLeaderDoesNotWait,
    /// PROTOCOL C5: no run ends with its session's lease.
    RunsOutliveLease,
    /// PROTOCOL C6: a worker's wall clock alone says when to start.
    StartsByWall,
    /// PROTOCOL D1: a stage without an answer did not arrive.
    SilenceIsProof,
    /// PROTOCOL D2: the next attempt begins as soon as the session is over.
    RetriesAtOnce,
    /// PROTOCOL E1: nothing is kept of what was revoked.
    NoTombstone,
    /// PROTOCOL E1: that the journal lacks records is forgotten when the process is started again.
    ForgetsLostRecords,
    /// PROTOCOL E2: a run that was starting when its worker died did not start.
    StartingIsUnstarted,
    /// PROTOCOL E4: output goes when the end of its run is acknowledged.
    SpoolDeletedEarly,
    /// PROTOCOL E5: an end is acknowledged when it is proposed.
    AcknowledgesProposals,
    /// PROTOCOL F1: an older row of history replaces a newer one. (Of the simulation's store.)
    UnguardedRow,
    /// PROTOCOL F2: `Recorded` covers the entry behind those that are written.
    RecordedBeyond,
    /// PROTOCOL G1: a voter with another disk is listened to.
    WipedVoterVotes,
    /// PROTOCOL H2: nobody compares clocks.
    ClockNotCompared,
    /// PROTOCOL H2: a clock that nobody has spoken of yet is good.
    UnprovedIsGood,
    /// PROTOCOL H3: a jump of the clock is not noticed.
    JumpNotNoticed,
    /// PROTOCOL H3: another clock is compared with this one as it stood before the question, not after the answer.
    ComparesAsAsked,
    /// A snapshot lacks the fires that wait.
    SnapshotWithoutWaiting,
}

#[cfg(debug_assertions)]
thread_local! {
    static ACTIVE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Whether this bug is switched on.
#[cfg(debug_assertions)]
pub fn is(mutation: Mutation) -> bool {
    ACTIVE.get() & 1 << mutation as u32 != 0
}

/// No bug is in a release build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn is(_: Mutation) -> bool {
    false
}

/// Switches these on, and all others off, for this thread.
#[cfg(debug_assertions)]
pub fn switch(mutations: &[Mutation]) {
    ACTIVE.set(mutations.iter().fold(0, |active, mutation| active | 1 << *mutation as u32));
}
