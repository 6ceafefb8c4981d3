//! The leader dies, stands still, is asked to go, or all controllers go at once: nobody notices.

use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::wait::{eventually, now_ms, wait_until_ms};
use crate::work::Work;

/// How long the jobs go on before and after what happens.
const QUIET_MS: i64 = 5_000;
/// From so long before a leader's death on, and until so long after it, fires are looked at one by one.
const BEFORE_MS: i64 = 3_000;
const AFTER_MS: i64 = 4_000;

fn rest(ms: i64) {
    wait_until_ms(now_ms() + ms);
}

#[test]
fn a_killed_leader_costs_no_fire_and_nothing_that_could_be_staged_ahead_is_late() {
    let mut cluster = Cluster::start();
    let mut work = Work::start(&cluster);
    rest(QUIET_MS);
    let mut deaths = Vec::new();
    for _ in 0..2 {
        let leader = cluster.wait_leader();
        deaths.push(now_ms());
        cluster.controller(leader).kill();
        cluster.wait_leader_but(Some(leader));
        rest(QUIET_MS);
        cluster.controller(leader).start();
        cluster.wait_ready();
        rest(1_000);
    }
    let verdict = work.finish(&cluster);
    verdict.check_undisturbed(&work);
    for death in deaths {
        verdict.check_staged_ahead(&cluster, &work, death - BEFORE_MS, death + AFTER_MS);
    }
}

#[test]
fn a_leader_that_stood_still_and_comes_back_can_do_nothing() {
    let mut cluster = Cluster::start();
    let mut work = Work::start(&cluster);
    rest(QUIET_MS);
    let leader = cluster.wait_leader();
    let froze_ms = now_ms();
    cluster.controller(leader).freeze();
    cluster.wait_leader_but(Some(leader));
    wait_until_ms(froze_ms + 10_000);
    let log_at = cluster.controllers[&leader].log_end();
    cluster.controller(leader).thaw();
    eventually("the old leader hears of the new one", || (cluster.view(leader)?["leader"] != leader).then_some(()));
    rest(QUIET_MS);
    let said = cluster.controllers[&leader].log_from(log_at);
    assert!(said.iter().any(|line| line.contains("This node is now a FOLLOWER")), "{said:#?}");
    let verdict = work.finish(&cluster);
    verdict.check_undisturbed(&work);
    verdict.check_staged_ahead(&cluster, &work, froze_ms - BEFORE_MS, froze_ms + AFTER_MS);
}

#[test]
fn a_leader_that_is_asked_to_stop_hands_over_before_it_goes() {
    let mut cluster = Cluster::start();
    let mut work = Work::start(&cluster);
    rest(QUIET_MS);
    let leader = cluster.wait_leader();
    let elections = cluster.elections();
    let asked_ms = now_ms();
    cluster.controller(leader).signal(Signal::TERM);
    assert_eq!(cluster.controller(leader).wait_exit().code(), Some(0));
    // It led no more when it went, and another one had been asked to: nobody had to wait for its silence.
    let has_handed_over = cluster.controllers[&leader].log().iter().any(|line| line.contains("stopping: leadership was handed over"));
    assert!(has_handed_over, "it went before it had handed over:\n{}", cluster.controllers[&leader].tail());
    let has_successor =
        |cluster: &Cluster| cluster.elections().into_iter().any(|(id, terms)| id != leader && terms.len() > elections[&id].len());
    eventually("another one leads", || has_successor(&cluster).then_some(()));
    rest(QUIET_MS);
    cluster.controller(leader).start();
    cluster.wait_ready();
    let verdict = work.finish(&cluster);
    verdict.check_undisturbed(&work);
    verdict.check_staged_ahead(&cluster, &work, asked_ms - BEFORE_MS, asked_ms + AFTER_MS);
}

#[test]
fn when_all_controllers_are_killed_at_once_and_come_back_every_fire_runs_once() {
    let mut cluster = Cluster::start();
    let mut work = Work::start(&cluster);
    rest(QUIET_MS);
    for away_ms in [0, 6_000] {
        for node in cluster.controllers.values_mut() {
            node.kill();
        }
        rest(away_ms);
        for node in cluster.controllers.values_mut() {
            node.start();
        }
        cluster.wait_ready();
        rest(QUIET_MS);
    }
    // And as an operator would do it.
    for node in cluster.controllers.values_mut() {
        node.signal(Signal::TERM);
    }
    for node in cluster.controllers.values_mut() {
        assert_eq!(node.wait_exit().code(), Some(0), "{}", node.tail());
        node.start();
    }
    cluster.wait_ready();
    rest(QUIET_MS);
    work.finish(&cluster).check_undisturbed(&work);
}
