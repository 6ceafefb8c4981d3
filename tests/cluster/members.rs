//! Members come and go at run time, a lost disk is replaced, and strangers are turned away.

use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::api::Answer;
use crate::cluster::{Cluster, Options};
use crate::wait::{eventually, now_ms, wait_until_ms};
use crate::work::Work;

const QUIET_MS: i64 = 3_000;

fn rest(ms: i64) {
    wait_until_ms(now_ms() + ms);
}

/// Whoever is a member, and as what, by the leader's word.
fn members(cluster: &Cluster) -> Vec<(u64, String)> {
    let view = cluster.view(cluster.wait_leader()).expect("it answers");
    let member = |member: &Value| (member["id"].as_u64().expect("an id"), member["role"].as_str().expect("a role").to_owned());
    view["members"].as_array().expect("members").iter().map(member).collect()
}

fn ids(cluster: &Cluster) -> Vec<u64> {
    members(cluster).into_iter().map(|(id, _)| id).collect()
}

fn voters(cluster: &Cluster) -> Vec<u64> {
    members(cluster).into_iter().filter(|(_, role)| role != "learner").map(|(id, _)| id).collect()
}

fn add(cluster: &Cluster, id: u64) -> Answer {
    let body = json!({"id": id, "address": cluster.rpc_address(id)}).to_string();
    cluster.api().call("POST", "/cluster/members", &[], Some(&body))
}

/// A client command against all controllers that run.
fn client(cluster: &Cluster, args: &[&str]) -> Child {
    let servers: Vec<String> = cluster.up().into_iter().map(|id| format!("http://{}", cluster.http_address(id))).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_chrono-flow"));
    command.args(args).env("CHRONO_FLOW_SERVER", servers.join(",")).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program starts")
}

#[test]
fn controllers_are_added_and_removed_and_leadership_is_handed_over_while_jobs_run() {
    let mut cluster = Cluster::start();
    let mut work = Work::start(&cluster);
    for id in [4, 5] {
        cluster.prepare_controller(id, 5).start();
        let answer = add(&cluster, id);
        assert!(answer.status == 201, "{}", answer.text);
        assert!(add(&cluster, id).status < 300, "a member stays as it is");
    }
    cluster.wait_ready();
    assert_eq!(voters(&cluster), [1, 2, 3, 4, 5]);

    // Each leads once, wherever it is asked for.
    for to in [5, 2] {
        let body = json!({"to": to}).to_string();
        cluster.api_of(1).call("POST", "/cluster/transfer", &[], Some(&body)).expect(200);
        assert_eq!(cluster.wait_leader(), to);
        rest(QUIET_MS);
    }
    // With five, two may be away.
    for id in [2, 3] {
        cluster.controller(id).kill();
    }
    let leader = cluster.wait_leader_but(Some(2));
    rest(QUIET_MS);
    for id in [2, 3] {
        cluster.controller(id).start();
    }
    cluster.wait_ready();

    // The leader itself is removed.
    cluster.api_of(leader).call("DELETE", &format!("/cluster/members/{leader}"), &[], None).expect(204);
    cluster.wait_leader_but(Some(leader));
    assert!(!voters(&cluster).contains(&leader));
    rest(QUIET_MS);
    assert_ne!(cluster.wait_leader(), leader);
    cluster.controller(leader).kill();
    cluster.controllers.remove(&leader);
    cluster.wait_ready();
    let missing = cluster.api().call("DELETE", "/cluster/members/77", &[], None);
    assert!((400..500).contains(&missing.status), "{}", missing.text);
    work.finish(&cluster).check_undisturbed(&work);
}

#[test]
fn a_controller_whose_disk_is_gone_does_not_come_back_as_itself_and_is_replaced() {
    let mut cluster = Cluster::start();
    let mut work = Work::start(&cluster);
    rest(QUIET_MS);
    let leader = cluster.wait_leader();
    let wiped = 1 + leader % 3;
    cluster.controller(wiped).kill();
    cluster.controllers[&wiped].wipe();
    rest(1_000);
    cluster.controller(wiped).start();
    let status = cluster.controller(wiped).wait_exit();
    assert_ne!(status.code(), Some(0), "it must not vote again");
    let said = cluster.controllers[&wiped].log_of_life().join("\n");
    assert!(said.contains("cluster replace"), "it says what to do: {said}");

    // The documented walk: ask for the replacement, and start it with an empty directory.
    let replaced = client(&cluster, &["cluster", "replace", &wiped.to_string()]);
    eventually("it has no vote any more", || (!voters(&cluster).contains(&wiped)).then_some(()));
    if cluster.controllers[&wiped].data_dir().exists() {
        cluster.controllers[&wiped].wipe();
    }
    cluster.controller(wiped).start();
    let replaced = replaced.wait_with_output().expect("it ends");
    assert!(replaced.status.success(), "{}", String::from_utf8_lossy(&replaced.stderr));
    cluster.wait_ready();
    assert_eq!(voters(&cluster), [1, 2, 3]);
    // It is a full member: without it and with one other away there is no quorum, with it there is.
    let other = 6 - leader - wiped;
    cluster.controller(other).kill();
    let body = json!({"to": wiped}).to_string();
    cluster.api_of(leader).call("POST", "/cluster/transfer", &[], Some(&body)).expect(200);
    assert_eq!(cluster.wait_leader(), wiped);
    rest(QUIET_MS);
    cluster.controller(other).start();
    cluster.wait_ready();
    work.finish(&cluster).check_undisturbed(&work);
}

#[test]
fn who_does_not_know_the_secret_is_turned_away() {
    let mut cluster = Cluster::start_with(Options { workers: 1, ..Options::default() });
    let wrong = cluster.path("wrong-secret");
    std::fs::write(&wrong, "something else\n").expect("a secret");
    let worker = cluster.prepare_worker(2);
    worker.set_flag("--cluster-secret-file", &wrong.to_string_lossy());
    worker.start();
    let stranger = cluster.prepare_controller(4, 4);
    stranger.set_flag("--cluster-secret-file", &wrong.to_string_lossy());
    stranger.start();
    let mut work = Work::default();
    work.add(&cluster, "tick", 1, "w end", json!({}));
    for name in ["worker-2", "controller-4"] {
        let node = if name == "worker-2" { &cluster.workers[name] } else { &cluster.controllers[&4] };
        eventually(&format!("{name} says why"), || node.log_of_life().into_iter().find(|line| line.contains("secret")));
    }
    cluster.witness.wait_starts(&work.jobs[0].value, 5);
    cluster.worker("worker-2").kill();
    cluster.controller(4).kill();
    cluster.controllers.remove(&4);
    cluster.workers.remove("worker-2");
    assert_eq!(ids(&cluster), [1, 2, 3]);
    let verdict = work.finish(&cluster);
    verdict.check_undisturbed(&work);
    assert!(verdict.lines.iter().all(|line| line.place == "worker-1"), "the stranger got work");
}

#[test]
fn a_node_or_a_database_of_another_cluster_is_refused_by_name() {
    let one = || Cluster::start_with(Options { controllers: 1, workers: 1, ..Options::default() });
    let (mine, mut other) = (one(), one());
    let id = |cluster: &Cluster| cluster.view(1).expect("it answers")["cluster_id"].as_str().expect("an id").to_owned();
    let (mine_id, other_id) = (id(&mine), id(&other));
    assert_ne!(mine_id, other_id);
    let mut work = Work::default();
    work.add(&mine, "tick", 1, "w end", json!({}));
    mine.witness.wait_starts(&work.jobs[0].value, 2);

    // A worker that has worked for the other one.
    let address = mine.rpc_address(1);
    let strayed = other.worker("worker-1");
    strayed.stop();
    strayed.set_flag("--controllers", &address);
    strayed.start();
    let mut stray = other.workers.remove("worker-1").expect("a worker");
    eventually("the worker says why it gets nothing", || {
        let refused = |line: &String| line.contains(&mine_id) || line.contains(&other_id);
        stray.log_of_life().into_iter().chain(mine.controllers[&1].log()).find(refused)
    });
    stray.kill();

    // A controller that is pointed at the other one's database.
    let url = mine.postgres.url().to_owned();
    other.controller(1).stop();
    other.controller(1).set_flag("--database-url", &url);
    other.controller(1).start();
    eventually("it names both", || {
        let log = other.controllers[&1].log_of_life().join("\n");
        (log.contains(&mine_id) && log.contains(&other_id)).then_some(())
    });
    mine.wait_ready();
    let before = mine.witness.starts_of(&work.jobs[0].value).len();
    mine.witness.wait_starts(&work.jobs[0].value, before + 2);
    work.finish(&mine).check_undisturbed(&work);
}
