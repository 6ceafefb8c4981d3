//! Each deliberate bug is caught within so many histories. A history whose fault is named meets that one at every other trouble.

#![cfg(debug_assertions)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use chrono_flow::mutation::{Mutation, switch};

use crate::faults::Trouble;
use crate::suite::live_with;

fn is_caught(mutation: Mutation, seed: u64, focus: Option<Trouble>) -> bool {
    switch(Some(mutation));
    let lived = catch_unwind(AssertUnwindSafe(|| live_with(seed, focus)));
    switch(None);
    lived.is_err()
}

fn within(seeds_max: u64, mutation: Mutation, focus: Option<Trouble>) {
    // Every catch is a panic: their texts are of no interest here.
    std::panic::set_hook(Box::new(|_| {}));
    let caught = (1..=seeds_max).find(|seed| is_caught(mutation, *seed, focus));
    drop(std::panic::take_hook());
    println!("{mutation:?} (with {focus:?}): caught by seed {caught:?} of {seeds_max}");
    assert!(caught.is_some(), "{mutation:?} was not noticed in {seeds_max} histories");
}

macro_rules! caught {
    ($($name:ident $mutation:ident within $seeds:literal $(with $trouble:ident)?;)*) => {
        $(
            #[test]
            fn $name() {
                within($seeds, Mutation::$mutation, caught!(@focus $($trouble)?));
            }
        )*
    };
    (@focus) => { None };
    (@focus $trouble:ident) => { Some(Trouble::$trouble) };
}

caught! {
    b1_licence_at_election LicenceAtElection within 12 with CrashesController;
    b2_no_compare_and_set NoCompareAndSet within 12 with IsolatesController;
    b2_stages_proposals StagesProposals within 12 with IsolatesController;
    b2_watermark_off_by_one WatermarkOffByOne within 20;
    b3_no_late_floor NoLateFloor within 3;
    b4_decides_again DecidesAgain within 6;
    b5_no_taking_back NoTakingBack within 3;
    b7_overlap_not_checked OverlapNotChecked within 6;
    b8_replaces_at_once ReplacesAtOnce within 6;
    b10_no_bound NoBound within 12 with StopsStore;
    c1_session_not_checked SessionNotChecked within 20 with IsolatesWorker;
    c2_term_not_checked TermNotChecked within 12 with CutsWorkerFromLeader;
    c3_grants_without_quorum GrantsWithoutQuorum within 20 with LeaderSleeps;
    c3_lease_from_receipt LeaseFromReceipt within 20 with WorkerSleepsAtItsBeat;
    c4_new_leader_does_not_wait NewLeaderDoesNotWait within 20 with HearsOnlyTheOldLeader;
    c5_runs_outlive_lease RunsOutliveLease within 12 with IsolatesWorker;
    c6_starts_by_wall StartsByWall within 20 with WorkersClock;
    d1_silence_is_proof SilenceIsProof within 12 with CutsWorkerFromLeader;
    d2_retries_at_once RetriesAtOnce within 20 with IsolatesWorker;
    e1_no_tombstone NoTombstone within 12 with CutsWorkerFromLeader;
    e2_starting_is_unstarted StartingIsUnstarted within 12 with KillsWorker;
    e4_spool_deleted_early SpoolDeletedEarly within 6 with StopsStore;
    e5_acknowledges_proposals AcknowledgesProposals within 12 with CrashesController;
    f1_unguarded_row UnguardedRow within 12 with PausesController;
    f2_recorded_beyond RecordedBeyond within 6;
    h2_clock_not_compared ClockNotCompared within 12 with ControllersClock;
    h3_jump_not_noticed JumpNotNoticed within 12 with ControllersClock;
    snapshot_without_waiting SnapshotWithoutWaiting within 6;
}
