//! A cluster comes up in any order, shares its work, and is served by every controller.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::api::Row;
use crate::cluster::{Cluster, Options};
use crate::wait::{eventually, now_ms, wait_until_ms};
use crate::work::{Verdict, Work};

/// How long parts that come late let the others wait.
const LATE_MS: i64 = 2_500;

/// Which workers ran something whose instant lies after a moment, and how often.
fn shares(cluster: &Cluster, after_ms: i64) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for line in cluster.witness.lines().into_iter().filter(|line| line.word == "start" && line.at_ms > after_ms) {
        *shares.entry(line.place).or_default() += 1;
    }
    shares
}

/// History names the worker in whose directory the command ran.
fn check_places(verdict: &Verdict) {
    for line in &verdict.lines {
        let row = verdict.rows.iter().find(|row| row.id == line.run).expect("a row");
        assert_eq!(row.worker, line.place, "{row:?}");
    }
}

#[test]
fn parts_may_start_in_any_order_and_then_share_the_work_and_serve_everything_everywhere() {
    let mut cluster = Cluster::prepare(Options::default());
    cluster.postgres.stop();
    for node in cluster.workers.values_mut() {
        node.start();
    }
    wait_until_ms(now_ms() + LATE_MS);
    for id in [3, 2] {
        cluster.controller(id).start();
    }
    wait_until_ms(now_ms() + LATE_MS);
    cluster.postgres.start_again();
    wait_until_ms(now_ms() + LATE_MS);
    cluster.controller(1).start();
    let mut nodes: Vec<_> = cluster.controllers.values_mut().chain(cluster.workers.values_mut()).collect();
    for node in &mut nodes {
        assert!(!node.has_exited(), "{} did not wait for the others", node.name);
    }
    cluster.wait_ready();
    let leader = cluster.wait_leader();
    let elections = cluster.elections();
    let newest = elections.iter().max_by_key(|(_, terms)| terms.iter().max()).expect("controllers");
    assert_eq!(*newest.0, leader, "the log of the leader says so: {elections:?}");

    // Written through one, read through each.
    let mut work = Work::default();
    for id in 1..=3 {
        let name = format!("by-{id}");
        work.add_by(&cluster.api_of(id), &cluster, &name, 1, "echo out; sleep 0.1; w end", json!({}));
        for other in 1..=3 {
            let read = cluster.api_of(other).get(&format!("/jobs/{}", work.job(&name).value["id"])).expect(200);
            assert_eq!(read["name"], json!(name));
        }
    }
    let asked = cluster.api_of(1).create_manual("asked", &cluster.witness.command("echo asked; w end"));
    for id in 1..=3 {
        let run = Row::read(&cluster.api_of(id).run_now(&asked, Some(&format!("key {id}"))));
        let other = 1 + id % 3;
        for reader in [other, 1 + other % 3] {
            let read = cluster.api_of(reader).get(&format!("/runs/{}", run.id));
            assert_eq!(read.status, 200, "it is readable as soon as its 202 was sent");
        }
        assert_eq!(Row::read(&cluster.api_of(other).run_now(&asked, Some(&format!("key {id}")))).id, run.id, "a key names one run");
        assert_eq!(cluster.api_of(other).wait_ended(&run.id).state, "succeeded");
        for reader in 1..=3 {
            assert_eq!(cluster.api_of(reader).output(&run.id), "asked\n");
        }
    }
    cluster.api().delete(&asked);
    assert_eq!(cluster.witness.starts_of(&asked).len(), 3);

    eventually("both workers take their share", || {
        let shares = shares(&cluster, 0);
        (shares.len() == 2 && shares.values().all(|count| *count >= 3)).then_some(())
    });
    cluster.prepare_worker(3).start();
    cluster.wait_ready();
    let joined_ms = now_ms();
    eventually("the new worker takes its share", || (shares(&cluster, joined_ms).get("worker-3")? >= &3).then_some(()));

    let lines = cluster.witness.lines().into_iter().filter(|line| line.job == asked["id"].as_i64().expect("an id"));
    let asked_runs: BTreeSet<String> = lines.map(|line| line.run).collect();
    assert_eq!(asked_runs.len(), 3);
    let verdict = work.finish_beside(&cluster, &[&asked]);
    verdict.check_undisturbed(&work);
    check_places(&verdict);
}

#[test]
fn on_loopback_a_cluster_needs_no_secret() {
    let mut cluster = Cluster::start_with(Options { has_secret: false, workers: 1, ..Options::default() });
    let mut work = Work::default();
    work.add(&cluster, "tick", 1, "w end", json!({}));
    cluster.witness.wait_starts(&work.job("tick").value, 3);
    work.finish(&cluster).check_undisturbed(&work);
    // Elsewhere it does not begin to listen.
    let open = cluster.prepare_controller(4, 4);
    open.set_flag("--rpc-listen", "0.0.0.0:0");
    open.start();
    assert_ne!(open.wait_exit().code(), Some(0));
    assert!(open.log().iter().any(|line| line.contains("secret")), "{}", open.tail());
    cluster.controllers.remove(&4);
}
