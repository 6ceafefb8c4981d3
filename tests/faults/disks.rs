//! A disk is full: under a controller's log, under a worker, under the database.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use serde_json::json;

use crate::cluster::{Cluster, Options};
use crate::disk::SmallDisk;
use crate::wait::{eventually, now_ms, wait_until_ms};
use crate::work::Work;

const QUIET_MS: i64 = 3_000;

fn rest(ms: i64) {
    wait_until_ms(now_ms() + ms);
}

/// Changes a job so that the log grows.
fn grow(cluster: &Cluster, number: usize) {
    let command = format!(": {number} {}", "x".repeat(200_000));
    cluster.api().put(json!({"name": "large", "schedule": "@daily", "command": command, "is_enabled": false}));
}

#[test]
fn a_controller_whose_disk_is_full_stops_and_says_so_and_comes_back_when_there_is_room() {
    let mut cluster = Cluster::prepare(Options::default());
    let mut disks = Vec::new();
    for node in cluster.controllers.values() {
        let Some(disk) = SmallDisk::mount(&node.data_dir(), "24m") else { return };
        disks.push(disk);
    }
    cluster.start_all();
    cluster.wait_ready();
    let mut work = Work::start(&cluster);
    rest(QUIET_MS);
    for is_leader in [true, false] {
        let leader = cluster.wait_leader();
        let id = if is_leader { leader } else { 1 + leader % 3 };
        let disk = &disks[id as usize - 1];
        disk.fill();
        let mut number = 0;
        while !cluster.controller(id).has_exited() {
            grow(&cluster, number);
            number += 1;
            assert!(number < 200, "it goes on without a disk");
        }
        assert_ne!(cluster.controller(id).wait_exit().code(), Some(0));
        let said = cluster.controllers[&id].log_of_life().join("\n");
        assert!(said.contains("log.redb") && said.contains("no space left on the disk"), "{said}");
        // The others go on, with what they have room for.
        cluster.wait_leader();
        rest(QUIET_MS);
        disk.free();
        cluster.controller(id).start();
        cluster.wait_ready();
        rest(QUIET_MS);
    }
    work.finish_beside(&cluster, &[]).check_undisturbed(&work);
    drop(disks);
}

#[test]
fn a_worker_whose_disk_is_full_loses_output_then_stops_loudly_and_the_other_one_takes_over() {
    let mut cluster = Cluster::prepare(Options { worker_flags: &["--label", "disk=large"], ..Options::default() });
    cluster.worker("worker-1").set_flag("--label", "disk=small");
    let Some(disk) = SmallDisk::mount(&cluster.workers["worker-1"].data_dir(), "16m") else { return };
    cluster.start_all();
    cluster.wait_ready();
    let api = cluster.api();
    let mut work = Work::start(&cluster);
    rest(QUIET_MS);
    disk.fill();
    // What it prints can't be kept, and that is said; the run is none the worse.
    let small = json!({"disk": "small"});
    let printing = cluster.witness.command("head -c 300000 /dev/zero; w end");
    let printing = json!({"name": "printing", "schedule": "0 0 1 1 *", "command": printing, "catch_up": "none", "worker_selector": small});
    let printing = api.put(printing);
    let run = api.run_now(&printing, Some("one"))["id"].as_str().expect("an id").to_owned();
    assert_eq!(api.wait_ended(&run).state, "succeeded");
    let told = api.get(&format!("/runs/{run}")).expect(200);
    assert!(told["error"].as_str().is_some_and(|error| error.contains("No space left")), "{told}");
    assert_eq!(told["output_truncated"], true);

    // Without room for its journal it can't begin: it says so, and the other one does the work.
    cluster.worker("worker-1").kill();
    cluster.worker("worker-1").start();
    assert_ne!(cluster.worker("worker-1").wait_exit().code(), Some(0));
    let said = cluster.workers["worker-1"].log_of_life().join("\n");
    assert!(said.contains("No space left") && said.contains("journal"), "{said}");
    let starts = cluster.witness.starts_of(&work.jobs[0].value).len();
    cluster.witness.wait_starts(&work.jobs[0].value, starts + 5);

    disk.free();
    cluster.worker("worker-1").start();
    cluster.wait_ready();
    let run = api.run_now(&printing, Some("two"))["id"].as_str().expect("an id").to_owned();
    let ended = api.wait_ended(&run);
    assert_eq!((ended.state.as_str(), ended.worker.as_str()), ("succeeded", "worker-1"));
    assert!(api.get(&format!("/runs/{run}")).expect(200)["error"].is_null());
    rest(QUIET_MS);
    let verdict = work.finish_beside(&cluster, &[&printing]);
    verdict.check_fates(&work, |state, reason| (state, reason) == ("lost", "worker_restarted"));
    drop(disk);
}

#[test]
fn while_the_databases_disk_is_full_schedules_go_on_and_history_is_whole_when_there_is_room() {
    let mut cluster = Cluster::prepare(Options::default());
    // The tables alone: a server that can't write its own log ends, and that is another test's.
    cluster.postgres.stop();
    let base = cluster.postgres.data().join("base");
    let aside = cluster.postgres.data().join("aside");
    std::fs::rename(&base, &aside).expect("it is stopped");
    let Some(disk) = SmallDisk::mount(&base, "64m") else { return };
    move_into(&aside, &base);
    cluster.postgres.start_again();
    cluster.start_all();
    cluster.wait_ready();
    let mut work = Work::start(&cluster);
    let random = "head -c 30000 /dev/urandom | base64; w end";
    work.add(&cluster, "printing", 1, random, json!({}));
    rest(QUIET_MS);
    disk.fill();
    let leader = cluster.wait_leader();
    let reason = eventually("the leader says that it can't record", || {
        let answer = cluster.api_of(leader).get("/readyz");
        (answer.status == 503).then(|| answer.json()["reasons"]["store"].clone()).filter(|reason| reason.is_string())
    });
    eprintln!("{reason}");
    let starts = cluster.witness.starts_of(&work.jobs[0].value).len();
    cluster.witness.wait_starts(&work.jobs[0].value, starts + 8);
    assert!(disk.free_bytes() < 1 << 20);
    disk.free();
    cluster.wait_ready();
    rest(QUIET_MS);
    work.finish(&cluster).check_undisturbed(&work);
    drop(disk);
}

/// Moves all in one directory into another one, which gets its owner, too.
fn move_into(from: &Path, to: &Path) {
    let metadata = std::fs::metadata(from).expect("a directory");
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(metadata.mode())).expect("ours");
    chown(to, Some(metadata.uid()), Some(metadata.gid())).expect("ours");
    let copied = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).output().expect("cp");
    assert!(copied.status.success(), "{copied:?}");
    std::fs::remove_dir_all(from).expect("ours");
}
