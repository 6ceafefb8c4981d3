//! Groups of several members: what each of raft's traps must not do to us.

use chrono_flow::consensus::{Failure, MemberChange, MemberRole, ProposeError, ReadError, RequestError, Role};

use crate::disk::Loss;
use crate::sim::{Sim, config};

fn voter(id: u64) -> MemberChange {
    MemberChange::Voter { id, address: format!("node-{id}:1") }
}

fn learner(id: u64) -> MemberChange {
    MemberChange::Learner { id, address: format!("node-{id}:1") }
}

#[test]
fn a_group_of_one_leads_after_its_first_turn() {
    let mut sim = Sim::new(1, 1);
    sim.run(60);
    assert_eq!(sim.leader(), Some(1));
    let status = sim.core(1).status();
    assert!(status.first_own_applied && status.role == Role::Leader && status.leader == Some(1));
    assert_eq!(status.members.len(), 1);
    assert_eq!(sim.commit().outcome, 0);
}

#[test]
fn three_members_elect_one_leader_and_apply_the_same() {
    let mut sim = Sim::new(2, 3);
    for number in 0..50 {
        assert_eq!(sim.commit().outcome, number);
    }
    sim.until_even();
    for id in 1..=3 {
        assert_eq!(sim.core(id).machine().history.len(), 50);
        assert_eq!(sim.core(id).status().leader, sim.leader());
    }
    sim.check_promises();
}

#[test]
fn when_the_leader_dies_another_takes_over_and_nothing_acknowledged_is_lost() {
    let mut sim = Sim::new(3, 3);
    for _ in 0..5 {
        sim.commit();
    }
    let first = sim.until_leader();
    sim.crash(first, Loss::Everything);
    sim.until("another leader", |sim| sim.leader().is_some());
    assert_ne!(sim.leader(), Some(first));
    for _ in 0..5 {
        sim.commit();
    }
    sim.start(first);
    sim.until_even();
    sim.check_promises();
    assert_eq!(sim.core(first).machine().history.len(), 10);
}

#[test]
fn a_leader_cut_off_steps_down_and_its_proposal_is_never_called_applied() {
    let mut sim = Sim::new(4, 3);
    sim.commit();
    let old = sim.until_leader();
    sim.isolate(old);
    let stranded = sim.propose(old);
    sim.until("the old leader to step down", |sim| sim.core(old).status().role != Role::Leader);
    sim.until("another leader", |sim| sim.leader().is_some_and(|leader| leader != old));
    sim.commit();
    sim.heal();
    sim.until_even();
    sim.until("an answer", |sim| sim.fates.contains_key(&stranded));
    assert_eq!(sim.fates[&stranded], Err(ProposeError::Lost));
    sim.check_promises();
}

#[test]
fn a_proposal_to_a_follower_names_the_leader() {
    let mut sim = Sim::new(5, 3);
    let leader = sim.until_leader();
    sim.until_even();
    let follower = if leader == 1 { 2 } else { 1 };
    let token = sim.propose(follower);
    sim.run(100);
    assert_eq!(sim.fates[&token], Err(ProposeError::NotLeader { leader: Some(leader) }));
}

#[test]
fn a_follower_that_was_away_too_long_catches_up_by_a_snapshot_and_restarts_from_it() {
    let mut sim = Sim::new(6, 3);
    let leader = sim.until_leader();
    let away = if leader == 1 { 2 } else { 1 };
    sim.crash(away, Loss::Everything);
    for _ in 0..100 {
        sim.commit();
    }
    sim.start(away);
    sim.until_even();
    assert!(sim.snapshots_sent > 0, "the log was compacted, so only a snapshot can have helped");
    assert_eq!(sim.disk(away).snapshot_files().len(), 1, "one snapshot is kept");
    sim.crash(away, Loss::Everything);
    sim.start(away);
    sim.commit();
    sim.until_even();
    sim.check_promises();
}

#[test]
fn a_snapshot_that_got_lost_without_a_report_is_sent_again() {
    let mut sim = Sim::new(7, 3);
    let leader = sim.until_leader();
    let away = if leader == 1 { 2 } else { 1 };
    sim.crash(away, Loss::Everything);
    for _ in 0..100 {
        sim.commit();
    }
    sim.loses_snapshots = true;
    sim.start(away);
    sim.until("a snapshot on its way", |sim| sim.snapshots_sent > 0);
    sim.run(2_000);
    assert_eq!(sim.snapshots_sent, 1, "raft waits for a report");
    sim.loses_snapshots = false;
    // The time-out of the sender, with the default of a minute.
    sim.run(60_000);
    sim.until_even();
    assert!(sim.snapshots_sent >= 2);
    sim.check_promises();
}

#[test]
fn a_read_confirmed_by_a_quorum_works_on_any_member_and_not_without_one() {
    let mut sim = Sim::new(8, 3);
    sim.commit();
    let leader = sim.until_leader();
    sim.until_even();
    let follower = if leader == 1 { 2 } else { 1 };
    let (on_leader, on_follower) = (sim.read(leader, true), sim.read(follower, false));
    let refused = sim.read(follower, true);
    sim.until("answers", |sim| sim.reads.len() == 3);
    let term = sim.core(leader).status().term;
    assert_eq!(sim.reads[&on_leader].as_ref().unwrap().leader_term, Some(term));
    assert_eq!(sim.reads[&on_follower].as_ref().unwrap().leader_term, None);
    assert_eq!(sim.reads[&refused], Err(ReadError::NotLeader { leader: Some(leader) }));

    sim.isolate(leader);
    let (alone, confirmed) = (sim.read(leader, false), sim.read(leader, true));
    sim.until("answers", |sim| sim.reads.len() == 5);
    assert_eq!(sim.reads[&alone], Err(ReadError::TimedOut));
    assert!(matches!(sim.reads[&confirmed], Err(ReadError::NotLeader { .. })), "{:?}", sim.reads[&confirmed]);
}

#[test]
fn a_paused_leader_that_wakes_up_confirms_nothing() {
    let mut sim = Sim::new(9, 3);
    sim.commit();
    let old = sim.until_leader();
    sim.until_even();
    // Asked before the pause ends, answered only if a quorum says so afterwards.
    let token = sim.read(old, true);
    sim.pause(old, 10_000);
    sim.run(5_000);
    sim.commit();
    assert_ne!(sim.leader(), Some(old));
    sim.until("an answer", |sim| sim.reads.contains_key(&token));
    assert!(sim.reads[&token].is_err(), "{:?}", sim.reads[&token]);
}

#[test]
fn leadership_moves_to_the_member_that_was_named_and_stays_there() {
    let mut sim = Sim::new(10, 3);
    sim.commit();
    let old = sim.until_leader();
    let target = if old == 3 { 1 } else { 3 };
    let token = sim.transfer(old, Some(target));
    sim.until("the new leader", |sim| sim.leader() == Some(target));
    sim.until("an answer", |sim| sim.requests.contains_key(&token));
    assert_eq!(sim.requests[&token], Ok(()));
    let unnamed = sim.transfer(target, None);
    sim.until("another leader", |sim| sim.leader().is_some_and(|leader| leader != target));
    sim.until("an answer", |sim| sim.requests.contains_key(&unnamed));
    sim.commit();
    sim.until_even();
    sim.check_promises();
}

#[test]
fn a_transfer_to_a_dead_member_is_given_up_and_the_leader_goes_on() {
    let mut sim = Sim::new(11, 3);
    sim.commit();
    let leader = sim.until_leader();
    let dead = if leader == 3 { 1 } else { 3 };
    sim.crash(dead, Loss::Everything);
    // Lagging, so that it can't be told to campaign.
    sim.commit();
    let token = sim.transfer(leader, Some(dead));
    sim.until("an answer", |sim| sim.requests.contains_key(&token));
    assert_eq!(sim.requests[&token], Err(RequestError::TimedOut));
    sim.commit();
    assert_eq!(sim.leader(), Some(leader));
}

#[test]
fn a_proposal_that_raft_drops_during_a_hand_over_is_answered_at_once_and_is_nowhere() {
    let mut sim = Sim::new(20, 3);
    sim.commit();
    let leader = sim.until_leader();
    let dead = if leader == 3 { 1 } else { 3 };
    sim.crash(dead, Loss::Everything);
    sim.commit();
    // The target lags and is dead: until the leader gives up, raft takes no proposals.
    sim.transfer(leader, Some(dead));
    let token = sim.propose(leader);
    sim.run(20);
    assert_eq!(sim.fates.get(&token), Some(&Err(ProposeError::Busy)));
    sim.until("the hand-over to be given up", |sim| sim.requests.len() == 1);
    sim.commit();
    sim.check_promises();
}

#[test]
fn a_removed_leader_steps_down_and_the_others_go_on() {
    let mut sim = Sim::new(12, 3);
    sim.commit();
    let old = sim.until_leader();
    let token = sim.change(old, vec![MemberChange::Remove { id: old }]);
    sim.until("an answer", |sim| sim.requests.contains_key(&token));
    assert_eq!(sim.requests[&token], Ok(()));
    sim.until("the old leader to step down", |sim| sim.core(old).status().role == Role::Follower);
    sim.until("another leader", |sim| sim.leader().is_some_and(|leader| leader != old));
    sim.commit();
    let leader = sim.until_leader();
    let ids: Vec<u64> = sim.core(leader).status().members.iter().map(|member| member.id).collect();
    assert!(!ids.contains(&old) && ids.len() == 2, "{ids:?}");
    sim.check_promises();
}

#[test]
fn a_new_member_gets_a_snapshot_first_and_then_votes() {
    let mut sim = Sim::new(13, 1);
    for _ in 0..3 {
        sim.commit();
    }
    for id in [2, 3] {
        sim.add(config(id, &[1]));
        for change in [learner(id), voter(id)] {
            let token = sim.change(1, vec![change]);
            sim.until("an answer", |sim| sim.requests.contains_key(&token));
            assert_eq!(sim.requests[&token], Ok(()));
            sim.until_even();
        }
    }
    assert!(sim.snapshots_sent >= 2, "only a snapshot tells a new member who the members are");
    assert!(sim.core(1).status().members.iter().all(|member| member.role == MemberRole::Voter && member.reachable));
    sim.crash(1, Loss::Everything);
    sim.until("a leader among the new ones", |sim| sim.leader().is_some());
    sim.commit();
    sim.start(1);
    sim.until_even();
    sim.check_promises();
}

#[test]
fn a_lone_founder_that_crashes_remembers_the_members_it_added() {
    let mut sim = Sim::new(14, 1);
    sim.commit();
    sim.add(config(2, &[1]));
    sim.add(config(3, &[1]));
    for id in [2, 3] {
        let token = sim.change(1, vec![voter(id)]);
        sim.until("an answer", |sim| sim.requests.contains_key(&token));
    }
    // Its commit index on disk lags; it must not elect itself alone while the others have a leader.
    sim.crash(1, Loss::Everything);
    sim.until("another leader", |sim| sim.leader().is_some());
    sim.commit();
    sim.isolate(1);
    sim.start(1);
    sim.run(5_000);
    assert_ne!(sim.core(1).status().role, Role::Leader, "it must need the others' votes");
    sim.heal();
    sim.until_even();
    sim.check_promises();
}

#[test]
fn a_member_left_alone_by_a_removal_still_leads_after_a_crash() {
    let mut sim = Sim::new(18, 2);
    sim.commit();
    sim.run(1_000);
    let leader = sim.until_leader();
    let gone = 3 - leader;
    let token = sim.change(leader, vec![MemberChange::Remove { id: gone }]);
    sim.until("an answer", |sim| sim.requests.contains_key(&token));
    assert_eq!(sim.requests[&token], Ok(()));
    sim.crash(gone, Loss::Everything);
    sim.crash(leader, Loss::Everything);
    sim.start(leader);
    sim.until("leading alone", |sim| sim.leader() == Some(leader));
    sim.commit();
    sim.check_promises();
}

#[test]
fn several_members_change_at_once_and_a_second_change_waits() {
    let mut sim = Sim::new(15, 3);
    sim.commit();
    let leader = sim.until_leader();
    let out = if leader == 1 { 2 } else { 1 };
    sim.add(config(4, &[1, 2, 3]));
    let first = sim.change(leader, vec![voter(4), MemberChange::Remove { id: out }]);
    let second = sim.change(leader, vec![learner(5)]);
    sim.until("answers", |sim| sim.requests.len() == 2);
    assert_eq!(sim.requests[&first], Ok(()));
    assert_eq!(sim.requests[&second], Err(RequestError::Busy));
    sim.crash(out, Loss::Everything);
    sim.until("the joint configuration left", |sim| sim.core(4).status().members.len() == 3);
    sim.commit();
    sim.until_even();
    sim.check_promises();
}

#[test]
fn changes_that_make_no_sense_are_refused() {
    let mut sim = Sim::new(16, 1);
    sim.commit();
    let cases: [(Vec<MemberChange>, &str); 4] = [
        (vec![], "names no member"),
        (vec![MemberChange::Remove { id: 1 }], "without a voter"),
        (vec![MemberChange::Remove { id: 9 }], "no member"),
        (vec![learner(2), voter(2)], "twice"),
    ];
    for (changes, reason) in cases {
        let token = sim.change(1, changes);
        sim.until("an answer", |sim| sim.requests.contains_key(&token));
        assert!(matches!(&sim.requests[&token], Err(RequestError::Invalid(text)) if text.contains(reason)), "{:?}", sim.requests[&token]);
    }
}

#[test]
fn a_member_that_comes_back_with_a_wiped_disk_is_told_so_and_stops() {
    let mut sim = Sim::new(17, 3);
    for _ in 0..3 {
        sim.commit();
    }
    sim.until_even();
    sim.run(1_000);
    let leader = sim.until_leader();
    let wiped = if leader == 1 { 2 } else { 1 };
    sim.crash(wiped, Loss::Everything);
    sim.disk(wiped).wipe();
    sim.start(wiped);
    sim.until("the wiped member to stop", |sim| !sim.is_up(wiped));
    let failure = sim.failure(wiped).unwrap();
    assert!(matches!(failure, Failure::RolledBack { .. }), "{failure}");
    assert!(failure.to_string().contains("emove this member"), "{failure}");
    sim.commit();

    // Removed and added again, it may come back with the new disk.
    for change in [MemberChange::Remove { id: wiped }, learner(wiped)] {
        let leader = sim.until_leader();
        let token = sim.change(leader, vec![change]);
        sim.until("an answer", |sim| sim.requests.contains_key(&token));
        assert_eq!(sim.requests[&token], Ok(()));
    }
    sim.disk(wiped).wipe();
    sim.add(config(wiped, &[]));
    sim.until_even();
    sim.check_promises();
}

#[test]
fn the_vote_of_a_wiped_disk_does_not_count() {
    let mut sim = Sim::new(19, 3);
    sim.commit();
    sim.until_even();
    sim.run(1_000);
    let leader = sim.until_leader();
    let (wiped, last) = match leader {
        1 => (2, 3),
        2 => (3, 1),
        _ => (1, 2),
    };
    // Two of three are gone; what is left must not be taken for a majority.
    sim.crash(leader, Loss::Everything);
    sim.crash(wiped, Loss::Everything);
    sim.disk(wiped).wipe();
    sim.start(wiped);
    sim.until("the wiped member to stop", |sim| !sim.is_up(wiped));
    let failure = sim.failure(wiped).unwrap();
    assert!(matches!(failure, Failure::Refused { by } if *by == last), "{failure}");
    assert!(failure.to_string().contains("wiped or replaced"), "{failure}");
    sim.run(5_000);
    assert_ne!(sim.core(last).status().role, Role::Leader);
    sim.start(leader);
    sim.commit();
    sim.check_promises();
}
