//! What stands still for longer than a lease, and comes back. (A worker, and a machine, are in `tests/cluster`.)

use rustix::process::{Signal, kill_process};

use crate::cluster::Cluster;
use crate::wait::{eventually, now_ms, wait_until_ms};
use crate::work::Work;

const QUIET_MS: i64 = 3_000;
/// Longer than the lease of a session.
const LAPSE_MS: i64 = 17_000;

#[test]
fn a_leader_and_a_guardian_that_stood_still_past_a_lease_come_back_to_nothing_lost_or_doubled() {
    let mut cluster = Cluster::start();
    let mut work = Work::start(&cluster);
    wait_until_ms(now_ms() + QUIET_MS);
    // The leader, and with it a guardian: its worker goes on, and can start nothing.
    let leader = cluster.wait_leader();
    let guardian = cluster.workers["worker-1"].guardian().expect("a worker has a guardian");
    let froze_ms = now_ms();
    cluster.controller(leader).freeze();
    kill_process(guardian, Signal::STOP).expect("it lives");
    cluster.wait_leader_but(Some(leader));
    wait_until_ms(froze_ms + LAPSE_MS);
    let log_at = cluster.controllers[&leader].log_end();
    cluster.controller(leader).thaw();
    kill_process(guardian, Signal::CONT).expect("it lives");
    eventually("the old leader hears of the new one", || (cluster.view(leader)?["leader"] != leader).then_some(()));
    wait_until_ms(now_ms() + QUIET_MS);
    let said = cluster.controllers[&leader].log_from(log_at);
    assert!(said.iter().any(|line| line.contains("This node is now a FOLLOWER")), "{said:#?}");
    cluster.wait_ready();

    // A follower.
    let follower = 1 + cluster.wait_leader() % 3;
    let froze_ms = now_ms();
    cluster.controller(follower).freeze();
    wait_until_ms(froze_ms + LAPSE_MS);
    cluster.controller(follower).thaw();
    cluster.wait_ready();
    wait_until_ms(now_ms() + QUIET_MS);
    work.finish(&cluster).check_undisturbed(&work);
}
