//! Containers are stopped, killed, cut off and made anew, while jobs fire every second: each fire has one fate, and the witness says the
//! same.

use serde_json::json;

use crate::cluster::{CONTROLLERS, Cluster};
use crate::shell::docker;
use crate::wait::{eventually, now_ms, wait_until_ms};
use crate::work::Work;

const QUIET_MS: i64 = 4_000;
/// Fires so long before a leader's end, and so long after it, are looked at.
const BEFORE_MS: i64 = 2_000;
const AFTER_MS: i64 = 4_000;
const NETWORK: &str = "chrono-flow-test_default";

fn step(what: &str) {
    eprintln!("{} {what}", jiff::Timestamp::now());
}

fn jobs(cluster: &Cluster) -> Work {
    let mut work = Work::default();
    for number in 1..=4 {
        work.add(cluster, &format!("tick-{number}"), 1, "w end", json!({}));
    }
    work.add(cluster, "alone", 2, "sleep 1; w end", json!({"overlap": "skip"}));
    work.add(cluster, "queued", 3, "sleep 1; w end", json!({"overlap": "queue_one"}));
    cluster.witness.wait_starts(&work.jobs[3].value, 2);
    work
}

fn controller(id: u64) -> String {
    format!("chrono-controller-{id}")
}

fn rest() {
    wait_until_ms(now_ms() + QUIET_MS);
}

fn address(container: &str) -> String {
    docker(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container]).trim().to_owned()
}

/// The leader is stopped, killed and cut off; no fire of an `allow` job is staged late for it.
#[test]
fn the_leader_goes_in_every_way() {
    let cluster = Cluster::start(2);
    let mut work = jobs(&cluster);
    let mut ends = Vec::new();
    for how in ["stop", "kill"] {
        rest();
        let leader = cluster.wait_leader_but(None);
        step(&format!("docker {how} {}", controller(leader)));
        ends.push(now_ms());
        docker(&[how, &controller(leader)]);
        cluster.wait_leader_but(Some(leader));
        wait_until_ms(now_ms() + AFTER_MS);
        docker(&["start", &controller(leader)]);
        cluster.wait_ready();
    }
    rest();
    let leader = cluster.wait_leader_but(None);
    step(&format!("{} is cut off from the network", controller(leader)));
    ends.push(now_ms());
    docker(&["network", "disconnect", NETWORK, &controller(leader)]);
    cluster.wait_leader_but(Some(leader));
    wait_until_ms(now_ms() + AFTER_MS);
    docker(&["network", "connect", NETWORK, &controller(leader)]);
    cluster.wait_ready();
    rest();
    let verdict = work.finish(&cluster);
    verdict.check_undisturbed(&work);
    for end in ends {
        verdict.check_staged_ahead(&cluster, &work, end - BEFORE_MS, end + AFTER_MS);
    }
}

/// Two of three controllers, a worker, the database; a controller with another address.
#[test]
fn containers_go_and_come_back_while_jobs_fire() {
    let cluster = Cluster::start(2);
    let mut work = jobs(&cluster);
    let api = cluster.api();
    let asked = api.create_manual("asked", "true");

    step("two of three controllers are stopped");
    let leader = cluster.wait_leader_but(None);
    let left = CONTROLLERS.into_iter().find(|id| *id != leader).expect("three");
    let gone: Vec<String> = CONTROLLERS.into_iter().filter(|id| *id != left).map(controller).collect();
    let before_ms = now_ms();
    docker(&["kill", &gone[0], &gone[1]]);
    let refused = cluster.api_of(left).call("POST", &format!("/jobs/{}/run", asked["id"]), &[("idempotency-key", "k")], None);
    assert!(refused.header("retry-after").is_some(), "{}", refused.text);
    assert_eq!(refused.expect(503)["code"], json!("no_leader"));
    let is_staged = |line: &crate::witness::Line| line.word == "start" && line.at_ms > before_ms;
    eventually("what was staged starts without a leader", || cluster.witness.lines().into_iter().find(is_staged));
    wait_until_ms(before_ms + 8_000);
    docker(&["start", &gone[0], &gone[1]]);
    cluster.wait_ready();
    rest();

    step("a worker is killed");
    docker(&["kill", "chrono-worker-2"]);
    rest();
    docker(&["start", "chrono-worker-2"]);
    cluster.wait_ready();
    rest();

    step("a worker is cut off");
    docker(&["network", "disconnect", NETWORK, "chrono-worker-1"]);
    wait_until_ms(now_ms() + 8_000);
    docker(&["network", "connect", NETWORK, "chrono-worker-1"]);
    cluster.wait_ready();
    rest();

    step("the database is restarted");
    docker(&["restart", "-t", "30", "chrono-postgres"]);
    cluster.wait_ready();
    rest();

    step("a controller is made anew, with another address");
    let name = controller(cluster.wait_leader_but(None));
    let old = address(&name);
    docker(&["rm", "-f", &name]);
    docker(&["run", "-d", "--name", "chrono-squatter", "--network", NETWORK, "--entrypoint", "sleep", "chrono-flow", "300"]);
    let mut cluster = cluster;
    cluster.shell(&format!("docker compose up -d --no-deps {name}"));
    docker(&["rm", "-f", "chrono-squatter"]);
    assert_ne!(address(&name), old);
    cluster.wait_ready();
    rest();

    let verdict = work.finish_beside(&cluster, &[&asked]);
    // What the killed worker ran.
    verdict.check_fates(&work, |state, reason| (state, reason) == ("lost", "worker_restarted"));
}

#[test]
fn a_rolling_restart_of_everything_loses_and_doubles_nothing() {
    let cluster = Cluster::start(3);
    let mut work = jobs(&cluster);
    let names = ["chrono-worker-1", "chrono-worker-2", "chrono-worker-3", "chrono-postgres"].map(str::to_owned);
    for name in names.into_iter().chain(CONTROLLERS.map(controller)) {
        step(&format!("{name} is restarted"));
        docker(&["restart", "-t", "60", &name]);
        cluster.wait_ready();
    }
    rest();
    let verdict = work.finish(&cluster);
    verdict.check_undisturbed(&work);
}
