//! kill -9 at each named place of a launch's way: through the log, to the worker, to its process, and into history.
#![cfg(debug_assertions)] // release builds have no such places

use std::path::PathBuf;

use chrono_flow::failpoint;
use serde_json::json;

use crate::cluster::{Cluster, Options};
use crate::node::Node;
use crate::wait::{eventually, now_ms, wait_until_ms};
use crate::work::Work;

const QUIET_MS: i64 = 2_000;
/// Places that a follower passes, too.
const OF_ALL: [&str; 4] = ["before-log-write", "before-log-commit", "after-log-commit", "after-apply"];

fn file(node: &Node) -> PathBuf {
    node.dir().join("failpoint")
}

fn tell(node: &Node, place: &str) {
    let next = file(node).with_extension("next");
    std::fs::write(&next, place).expect("a file");
    std::fs::rename(next, file(node)).expect("a file");
}

/// Waits until a node has died where it was told to, and starts it again.
#[track_caller]
fn wait_death(node: &mut Node, place: &str) {
    eventually(&format!("{} dies at {place}", node.name), || node.has_exited().then_some(()));
    node.wait_exit();
    assert!(
        !file(node).exists() && node.log_of_life().iter().any(|line| line.contains(place)),
        "it died of something else:\n{}",
        node.tail()
    );
    node.start();
}

#[test]
fn a_death_at_any_place_of_a_launchs_way_loses_no_fire_and_doubles_none() {
    let mut cluster = Cluster::prepare(Options::default());
    for node in cluster.controllers.values_mut().chain(cluster.workers.values_mut()) {
        node.env = vec![("CHRONO_FLOW_FAILPOINT", file(node))];
    }
    cluster.start_all();
    cluster.wait_ready();
    let mut work = Work::start(&cluster);
    work.add(&cluster, "edited", 1, "w end", json!({}));
    wait_until_ms(now_ms() + QUIET_MS);
    for place in failpoint::NAMES {
        if *place == "worker-after-revoked" {
            // Whoever changes the job waits until the worker has told that it did not start it.
            let (name, api) = ("worker-1", cluster.api());
            tell(&cluster.workers[name], place);
            eventually("something is taken back from it", || {
                std::thread::scope(|scope| {
                    let changing = scope.spawn(|| {
                        work.job("edited").pause(&api);
                        work.job("edited").resume(&api);
                    });
                    while !changing.is_finished() {
                        if cluster.worker(name).has_exited() {
                            wait_death(cluster.worker(name), place);
                        }
                        std::thread::sleep(std::time::Duration::from_millis(20));
                    }
                });
                (!file(&cluster.workers[name]).exists()).then_some(())
            });
            cluster.wait_ready();
        } else if place.starts_with("worker-") {
            tell(&cluster.workers["worker-1"], place);
            wait_death(cluster.worker("worker-1"), place);
            cluster.wait_ready();
        } else {
            let leader = cluster.wait_leader();
            tell(&cluster.controllers[&leader], place);
            wait_death(cluster.controller(leader), place);
            cluster.wait_ready();
            if OF_ALL.contains(place) {
                let follower = 1 + cluster.wait_leader() % 3;
                tell(&cluster.controllers[&follower], place);
                wait_death(cluster.controller(follower), place);
                cluster.wait_ready();
            }
        }
    }
    wait_until_ms(now_ms() + QUIET_MS);
    let verdict = work.finish(&cluster);
    // What ran on the worker when it died is lost, and told to be.
    verdict.check_fates(&work, |state, reason| (state, reason) == ("lost", "worker_restarted"));
    let elsewhere = verdict.rows.iter().find(|row| row.state == "lost" && row.worker != "worker-1");
    assert_eq!(elsewhere, None, "the other one did not die");
}
