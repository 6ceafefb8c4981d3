//! Commands that know no measure: without an end to their output, without an end to their processes, and ten thousand at once.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Options};
use crate::wait::{eventually, now_ms, wait_until_ms};
use crate::work::{Work, settled};

/// What a command prints. Its worker keeps a megabyte of it.
const OUTPUT_GIB: u64 = 10;
const MEMORY_KIB_MAX: u64 = 300 << 10;
/// Processes that a worker and all it starts may have.
const PROCESSES_MAX: u32 = 400;
/// A shell that can't make another process ends, and so makes room for the next one. None of them minds being asked to stop.
const BOMB: &str = "trap '' TERM; bomb() { while :; do bomb & done; }; bomb 2>/dev/null & exec sleep 600";
const RUNS: usize = 10_000;
/// Who ask for them.
const CLIENTS: usize = 16;

fn peak_kib(pid: rustix::process::Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).expect("it lives");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Jobs that only the second worker does, so that what happens on the first one is seen from outside.
fn start_apart() -> (Cluster, Work, Value) {
    let mut cluster = Cluster::prepare(Options { worker_flags: &["--label", "for=work"], ..Options::default() });
    cluster.worker("worker-1").set_flag("--label", "for=mischief");
    cluster.start_all();
    cluster.wait_ready();
    let mut work = Work::default();
    for number in 1..=3 {
        work.add(&cluster, &format!("tick-{number}"), 1, "w end", json!({"worker_selector": {"for": "work"}}));
    }
    (cluster, work, json!({"for": "mischief"}))
}

fn manual(cluster: &Cluster, name: &str, command: &str, selector: &Value) -> Value {
    let job = json!({"name": name, "schedule": "0 0 1 1 *", "catch_up": "none", "command": command, "worker_selector": selector});
    cluster.api().put(job)
}

#[test]
fn ten_gigabytes_of_output_cost_a_worker_no_memory_and_nobody_else_anything() {
    let (cluster, mut work, selector) = start_apart();
    let api = cluster.api();
    let command = cluster.witness.command(&format!("head -c {OUTPUT_GIB}G /dev/zero; echo the end; w end"));
    let job = manual(&cluster, "printing", &command, &selector);
    let began = Instant::now();
    let run = api.run_now(&job, Some("once"))["id"].as_str().expect("an id").to_owned();
    // It may take longer than anything that is waited for.
    while !crate::api::Row::read(&api.get(&format!("/runs/{run}")).expect(200)).is_final() && began.elapsed().as_secs() < 120 {
        wait_until_ms(now_ms() + 200);
    }
    let told = api.get(&format!("/runs/{run}")).expect(200);
    eprintln!("{OUTPUT_GIB} GiB in {:.1} s", began.elapsed().as_secs_f64());
    assert_eq!((&told["state"], &told["output_truncated"]), (&json!("succeeded"), &json!(true)), "{told}");
    assert_eq!(told["output_bytes"], (OUTPUT_GIB << 30) + 8);
    let output = api.output(&run);
    assert!(output.len() < 2 << 20 && output.ends_with("the end\n"), "{} bytes are kept", output.len());
    for node in cluster.workers.values().chain(cluster.controllers.values()) {
        let kib = peak_kib(node.pid());
        assert!(kib < MEMORY_KIB_MAX, "{} had {kib} KiB", node.name);
    }
    work.finish_beside(&cluster, &[&job]).check_undisturbed(&work);
}

/// A group of processes of which there may be so many only.
struct Pids(PathBuf);

impl Pids {
    fn new(max: u32) -> Option<Pids> {
        let pids = Pids(format!("/sys/fs/cgroup/pids/chrono-flow-test-{}", std::process::id()).into());
        if fs::create_dir(&pids.0).and_then(|()| fs::write(pids.0.join("pids.max"), max.to_string())).is_err() {
            eprintln!("SKIPPED: no limit of processes can be set here (it takes root, and the pids cgroup)");
            return None;
        }
        Some(pids)
    }

    fn put(&self, pid: rustix::process::Pid) {
        fs::write(self.0.join("cgroup.procs"), pid.as_raw_nonzero().to_string()).expect("root may");
    }

    fn count(&self) -> u32 {
        fs::read_to_string(self.0.join("pids.current")).expect("a count").trim().parse().expect("a number")
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        // Whoever is left in it is somebody else's again.
        for pid in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write("/sys/fs/cgroup/pids/cgroup.procs", pid);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_fork_bomb_is_ended_to_the_last_process_when_it_is_cancelled() {
    let Some(pids) = Pids::new(PROCESSES_MAX) else { return };
    let (cluster, mut work, selector) = start_apart();
    let api = cluster.api();
    // Its commands' processes are counted with it: threads are, too.
    pids.put(cluster.workers["worker-1"].pid());
    pids.put(cluster.workers["worker-1"].guardian().expect("a guardian"));
    let threads = pids.count();
    let bomb = manual(&cluster, "bomb", BOMB, &selector);
    let bomb = api.patch(&bomb, json!({"kill_grace_s": 1}));
    let run = api.run_now(&bomb, Some("once"))["id"].as_str().expect("an id").to_owned();
    eventually("it has gone off", || (pids.count() >= PROCESSES_MAX - 10).then_some(()));
    let starts = cluster.witness.starts_of(&work.jobs[0].value).len();
    cluster.witness.wait_starts(&work.jobs[0].value, starts + 3);
    api.call("POST", &format!("/runs/{run}/cancel"), &[], None).expect(202);
    assert_eq!(api.wait_ended(&run).state, "cancelled");
    eventually("all of its processes are gone", || (pids.count() <= threads + 8).then_some(()));
    // The worker is none the worse.
    let job = manual(&cluster, "afterwards", &cluster.witness.command("w end"), &selector);
    let after = api.run_now(&job, Some("after"))["id"].as_str().expect("an id").to_owned();
    assert_eq!(api.wait_ended(&after).state, "succeeded");
    work.finish_beside(&cluster, &[&bomb, &job]).check_undisturbed(&work);
    drop(cluster);
}

#[test]
fn ten_thousand_runs_at_once_all_run_and_each_once() {
    let mut cluster = Cluster::start();
    // They wait for somebody to do them.
    cluster.workers.values_mut().for_each(|node| node.stop());
    let path = cluster.path("runs");
    let job = cluster.api().create_manual("many", &format!("echo $CHRONO_FLOW_RUN_ID >> {}", path.display()));
    let began = Instant::now();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let ask = |client: usize| {
            let (api, job) = (cluster.api(), &job);
            let asking = move || {
                let ask = |number: usize| api.run_now(job, Some(&format!("{client} {number}")))["id"].as_str().expect("an id").to_owned();
                (0..RUNS / CLIENTS).map(ask).collect::<Vec<_>>()
            };
            scope.spawn(asking)
        };
        let clients: Vec<_> = (0..CLIENTS).map(ask).collect();
        clients.into_iter().flat_map(|client| client.join().expect("it asks")).collect()
    });
    assert!(!path.exists(), "nobody could do them");
    eprintln!("asked for within {:.1} s", began.elapsed().as_secs_f64());
    cluster.workers.values_mut().for_each(|node| node.start());
    let lines = || fs::read_to_string(&path).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<String>>();
    let mut before = 0;
    while lines().len() < RUNS {
        // However slow the machine is, it goes on.
        eventually("further runs have started", || (lines().len() > before).then_some(()));
        before = lines().len();
    }
    eprintln!("all have run within {:.1} s", began.elapsed().as_secs_f64());
    let rows = settled(&cluster);
    let ran = lines();
    let unique: BTreeSet<&String> = ran.iter().collect();
    assert_eq!((ran.len(), unique.len()), (RUNS, RUNS), "some ran twice");
    assert_eq!(unique, ids.iter().collect(), "others ran than were asked for");
    assert_eq!(rows.len(), RUNS);
    assert!(rows.iter().all(|row| row.state == "succeeded"));
    assert_eq!(rows.iter().map(|row| &row.id).collect::<BTreeSet<_>>(), unique);
}
