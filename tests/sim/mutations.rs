//! Each deliberate bug is caught within so many histories. A history whose fault is named meets that one at every fourth trouble.

#![cfg(debug_assertions)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use chrono_flow::mutation::{Mutation, switch};

use crate::faults::Trouble;
use crate::suite::live_with;

fn is_caught(mutation: Mutation, seed: u64, focus: Option<Trouble>) -> bool {
    switch(&[mutation]);
    let lived = catch_unwind(AssertUnwindSafe(|| live_with(seed, focus)));
    switch(&[]);
    lived.is_err()
}

fn within(seeds_max: u64, mutation: Mutation, focus: Option<Trouble>) {
    // Every catch is a panic: their texts are of no interest here.
    std::panic::set_hook(Box::new(|_| {}));
    let caught = (1..=seeds_max).find(|seed| is_caught(mutation, *seed, focus));
    drop(std::panic::take_hook());
    println!("{mutation:?} (with {focus:?}): caught by seed {caught:?} of {seeds_max}");
    let seed = caught.unwrap_or_else(|| panic!("{mutation:?} was not noticed in {seeds_max} histories"));
    live_with(seed, focus); // without it, all is well
}

#[test]
fn what_a_leader_lost_track_of_is_decided_once() {
    for seed in 1..=8 {
        live_with(seed, Some(Trouble::LosesLargeFrames));
    }
}

#[test]
fn every_mutation_is_caught() {
    let source = include_str!("../../src/mutation.rs");
    let all = source.split("pub enum Mutation {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("the list");
    let names =
        all.lines().map(str::trim).filter(|line| !line.starts_with("//") && !line.is_empty()).map(|line| line.trim_end_matches(','));
    let is_listed = |name: &&str| CAUGHT.iter().any(|mutation| format!("{mutation:?}") == **name);
    let missing: Vec<&str> = names.filter(|name| !is_listed(name)).collect();
    assert!(missing.is_empty(), "nothing is said of {missing:?}");
}

macro_rules! caught {
    ($($name:ident $mutation:ident within $seeds:literal $(with $trouble:ident)?;)*) => {
        const CAUGHT: &[Mutation] = &[$(Mutation::$mutation),*];
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
    b1_licence_at_election LicenceAtElection within 12 with CutsLeaderAtARefusal;
    b2_no_compare_and_set NoCompareAndSet within 12 with LosesLargeFrames;
    b2_parts_not_compared PartsNotCompared within 24 with LosesLargeFrames;
    b2_stages_proposals StagesProposals within 12 with IsolatesController;
    b2_watermark_too_far WatermarkTooFar within 6;
    b3_no_late_floor NoLateFloor within 3;
    b4_decides_again DecidesAgain within 6;
    b5_no_taking_back NoTakingBack within 3;
    b7_overlap_not_checked OverlapNotChecked within 6;
    b8_replaces_at_once ReplacesAtOnce within 6;
    b10_no_bound NoBound within 12 with StopsStore;
    c1_stale_session_opens StaleSessionOpens within 12 with DelaysAnOpening;
    c1_session_not_checked SessionNotChecked within 24 with IsolatesWorker;
    c2_term_not_checked TermNotChecked within 12 with CutsWorkerFromLeader;
    c2_reuses_epochs ReusesEpochs within 8 with EditsBack;
    c3_grants_without_quorum GrantsWithoutQuorum within 12 with LeaderWakesLate;
    c3_lease_from_receipt LeaseFromReceipt within 20 with WorkerSleepsAtItsBeat;
    c4_new_leader_does_not_wait NewLeaderDoesNotWait within 20 with HearsOnlyTheOldLeader;
    c5_runs_outlive_lease RunsOutliveLease within 16 with IsolatesWorker;
    c6_starts_by_wall StartsByWall within 20 with WorkersClock;
    d1_silence_is_proof SilenceIsProof within 12 with CutsWorkerFromLeader;
    d2_retries_at_once RetriesAtOnce within 16 with IsolatesWorker;
    e1_no_tombstone NoTombstone within 6 with CutsLeaderAtAnEdit;
    e1_forgets_lost_records ForgetsLostRecords within 16 with RebootsTwice;
    e2_starting_is_unstarted StartingIsUnstarted within 12 with KillsWorker;
    e4_spool_deleted_early SpoolDeletedEarly within 6 with StopsStore;
    e5_acknowledges_proposals AcknowledgesProposals within 12 with CrashesController;
    f1_unguarded_row UnguardedRow within 6 with RecorderStalls;
    f2_recorded_beyond RecordedBeyond within 6;
    g1_wiped_voter_votes WipedVoterVotes within 12 with WipesController;
    h2_clock_not_compared ClockNotCompared within 12 with ControllersClock;
    h2_unproved_is_good UnprovedIsGood within 12 with StartsByAnotherTime;
    h3_compares_as_asked ComparesAsAsked within 4 with SetsClockWhileAsking;
    h3_jump_not_noticed JumpNotNoticed within 12 with ControllersClock;
    snapshot_without_waiting SnapshotWithoutWaiting within 6;
}
