//! One bit flips on a controller's disk: it is noticed, and named; that node refuses, the others go on, and it is built anew from them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::cluster::Cluster;
use crate::wait::{now_ms, wait_until_ms};
use crate::work::Work;

const QUIET_MS: i64 = 2_000;
/// The log holds so many bytes before a snapshot is taken; a command may have 256 KiB.
const SNAPSHOT_BYTES: usize = 64 << 20;
const COMMAND_BYTES: usize = 255_000;

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("a file");
}

fn snapshot(raft: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(raft).expect("a directory").flatten().map(|entry| entry.path());
    files
        .filter(|path| !path.ends_with(".tmp"))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snapshot-")))
}

/// Starts it; it must refuse, and name the file. It changes nothing by that.
#[track_caller]
fn check_refuses(cluster: &mut Cluster, id: u64, file: &Path) {
    let before = fs::read(file).expect("a file");
    cluster.controller(id).start();
    assert_ne!(cluster.controller(id).wait_exit().code(), Some(0), "it must not start with that");
    let said = cluster.controllers[&id].log_of_life().join("\n");
    assert!(said.contains(&*file.to_string_lossy()) && said.contains("remove this member and add it again"), "{said}");
    assert!(fs::read(file).expect("a file") == before, "a refusal changes nothing");
}

/// As README says it, Operations.
fn replace(cluster: &mut Cluster, id: u64) {
    let servers: Vec<String> = cluster.up().into_iter().map(|id| format!("http://{}", cluster.http_address(id))).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_chrono-flow"));
    command.args(["cluster", "replace", &id.to_string(), &cluster.rpc_address(id)]).env("CHRONO_FLOW_SERVER", servers.join(","));
    let client = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("the program starts");
    cluster.controllers[&id].wipe();
    cluster.controller(id).start();
    let said = client.wait_with_output().expect("it ends");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    cluster.wait_ready();
}

#[test]
fn a_flipped_bit_in_a_snapshot_or_a_log_is_named_and_the_node_is_built_anew_from_its_peers() {
    let mut cluster = Cluster::start();
    let mut work = Work::start(&cluster);
    let api = cluster.api();
    let large = |mark: &str| {
        let command = format!(": {mark} {}", "x".repeat(COMMAND_BYTES));
        api.put(json!({"name": "large", "schedule": "@daily", "command": command, "is_enabled": false}));
    };
    for number in 0..SNAPSHOT_BYTES / COMMAND_BYTES + 2 {
        large(&format!("number-{number}"));
    }
    let leader = cluster.wait_leader();
    let raft = |cluster: &Cluster, id: u64| cluster.controllers[&id].data_dir().join("raft");

    let first = 1 + leader % 3;
    crate::wait::eventually("a snapshot is taken", || snapshot(&raft(&cluster, first)));
    wait_until_ms(now_ms() + QUIET_MS);
    cluster.controller(first).stop();
    let file = snapshot(&raft(&cluster, first)).expect("it was there");
    let middle = fs::metadata(&file).expect("a file").len() as usize / 2;
    flip(&file, middle);
    check_refuses(&mut cluster, first, &file);
    wait_until_ms(now_ms() + QUIET_MS);
    replace(&mut cluster, first);

    let leader = cluster.wait_leader();
    let second = 1 + leader % 3;
    let mark = "the-bit-is-flipped-here";
    large(mark);
    cluster.wait_ready();
    wait_until_ms(now_ms() + QUIET_MS);
    cluster.controller(second).stop();
    let file = raft(&cluster, second).join("log.redb");
    let bytes = fs::read(&file).expect("a file");
    let found = bytes.windows(mark.len()).position(|window| window == mark.as_bytes());
    flip(&file, found.expect("the log has it"));
    check_refuses(&mut cluster, second, &file);
    wait_until_ms(now_ms() + QUIET_MS);
    replace(&mut cluster, second);

    wait_until_ms(now_ms() + QUIET_MS);
    work.finish(&cluster).check_undisturbed(&work);
}
