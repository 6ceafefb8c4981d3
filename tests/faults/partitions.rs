//! The leader is cut off: from the other controllers, from workers, from the database; in both directions, or in one.

use serde_json::json;

use crate::cluster::{Cluster, Options};
use crate::network::{Network, Ways};
use crate::wait::{eventually, now_ms, wait_until_ms};
use crate::work::Work;

const NODES: &[&str] = &["controller-1", "controller-2", "controller-3", "worker-1", "worker-2", "database"];
const WORKERS: [&str; 2] = ["worker-1", "worker-2"];
/// How long the jobs go on before and after what happens.
const QUIET_MS: i64 = 2_000;
/// How long it lasts: longer than a start permit, shorter than a lease.
const CUT_MS: i64 = 6_000;
/// Longer than the lease of a session.
const LAPSE_MS: i64 = 18_000;

fn rest(ms: i64) {
    wait_until_ms(now_ms() + ms);
}

fn start() -> Option<(Network, Cluster)> {
    let network = Network::new(NODES)?;
    let cluster = Cluster::start_with(Options { places: Some(network.places()), ..Options::default() });
    Some((network, cluster))
}

fn name(id: u64) -> String {
    format!("controller-{id}")
}

fn others(id: u64) -> impl Iterator<Item = &'static str> {
    NODES[..3].iter().copied().filter(move |other| *other != name(id))
}

/// Lets every packet arrive again, and waits until all is well. Says for how long each of the jobs that run every second was silent.
#[track_caller]
fn heal(network: &Network, cluster: &Cluster, work: &Work) {
    network.heal();
    let healed_ms = now_ms();
    for job in work.jobs.iter().filter(|job| job.name.starts_with("tick")) {
        let next = eventually("it runs again", || {
            let starts = cluster.witness.starts_of(&job.value);
            starts.into_iter().map(|line| line.clock_ms).find(|clock_ms| *clock_ms > healed_ms)
        });
        eprintln!("{} runs again {} ms after the heal", job.name, next - healed_ms);
    }
    cluster.wait_ready();
    eprintln!("all is well {} ms after the heal", now_ms() - healed_ms);
    rest(QUIET_MS);
}

#[test]
fn a_leader_cut_off_from_the_other_controllers_is_replaced_and_costs_no_fire() {
    let Some((network, cluster)) = start() else { return };
    let mut work = Work::start(&cluster);
    rest(QUIET_MS);
    let mut cuts = Vec::new();
    for (ways, is_alone) in [(Ways::Both, false), (Ways::Out, false), (Ways::In, false), (Ways::Both, true)] {
        let old = cluster.wait_leader();
        eprintln!("{} is cut off: {ways:?}, from workers and database too: {is_alone}", name(old));
        cuts.push(now_ms());
        network.cut(&name(old), others(old).chain(NODES[3..].iter().copied().filter(|_| is_alone)), ways);
        let new = cluster.wait_leader_but(Some(old));
        // It knows that it is nobody: it can't have led until somebody told it.
        eventually("the old one leads no more", || (cluster.view(old)?["leader"] != old).then_some(()));
        rest(CUT_MS);
        assert_eq!(cluster.wait_leader(), new, "the old one, or a storm of elections, disturbs nobody");
        heal(&network, &cluster, &work);
    }
    let verdict = work.finish(&cluster);
    verdict.check_undisturbed(&work);
    for cut in cuts {
        verdict.check_staged_ahead(&cluster, &work, cut - QUIET_MS, cut + CUT_MS);
    }
}

#[test]
fn a_leader_cut_off_from_workers_starts_late_what_it_must_and_nothing_twice() {
    let Some((network, cluster)) = start() else { return };
    let mut work = Work::start(&cluster);
    rest(QUIET_MS);
    for (workers, ways) in [(&WORKERS[..1], Ways::Both), (&WORKERS, Ways::Out), (&WORKERS, Ways::In)] {
        let leader = cluster.wait_leader();
        eprintln!("{} and {workers:?} are parted: {ways:?}", name(leader));
        network.cut(&name(leader), workers.iter().copied(), ways);
        rest(CUT_MS);
        heal(&network, &cluster, &work);
    }
    work.finish(&cluster).check_undisturbed(&work);
}

#[test]
fn a_worker_cut_off_from_all_controllers_past_its_lease_starts_nothing_late_and_tells_what_ran() {
    let Some((network, cluster)) = start() else { return };
    let api = cluster.api();
    let mut work = Work::default();
    for number in 1..=3 {
        work.add(&cluster, &format!("tick-{number}"), 1, "w end", json!({}));
    }
    let retry = json!({"on_worker_lost": "retry", "kill_grace_s": 1});
    work.add(&cluster, "retried", 2, "sleep 3; w end", retry);
    let long = api.create_manual("long", &cluster.witness.command("sleep 25; w end"));
    let runs: Vec<String> =
        (0..4).map(|key| api.run_now(&long, Some(&key.to_string()))["id"].as_str().expect("an id").to_owned()).collect();
    for run in &runs {
        cluster.witness.wait_word(run, "start");
    }
    rest(QUIET_MS);
    let cut_ms = now_ms();
    network.cut("worker-1", NODES[..3].iter().copied(), Ways::Both);
    rest(LAPSE_MS);
    // A permit lasts 5 s from a heartbeat that was sent before.
    let last =
        cluster.witness.lines().into_iter().filter(|line| line.word == "start" && line.place == "worker-1").map(|line| line.clock_ms);
    let last = last.max().expect("it worked");
    assert!(last < cut_ms + 6_000, "it started something {} ms after it was cut off", last - cut_ms);
    network.heal();
    cluster.wait_ready();
    for run in &runs {
        assert_eq!(api.wait_ended(run).state, "succeeded", "it went on where it was");
    }
    rest(QUIET_MS);
    let verdict = work.finish_beside(&cluster, &[&long]);
    // A run that ends with the lease is ended by its guardian, and has another attempt.
    verdict.check_fates(&work, |state, reason| (state, reason) == ("lost", "worker_lost"));
    for row in verdict.rows.iter().filter(|row| row.state == "lost") {
        assert!(verdict.rows.iter().any(|other| other.retry_of.as_ref() == Some(&row.id)), "lost, and no other attempt: {row:?}");
    }
}

#[test]
fn a_leader_cut_off_from_the_database_goes_on_and_history_is_whole_afterwards() {
    let Some((network, cluster)) = start() else { return };
    let mut work = Work::start(&cluster);
    rest(QUIET_MS);
    for (number, ways) in [Ways::Both, Ways::Out].into_iter().enumerate() {
        let leader = cluster.wait_leader();
        eprintln!("{} is cut off from the database: {ways:?}", name(leader));
        let cut_ms = now_ms();
        network.cut(&name(leader), ["database"], ways);
        let follower = 1 + leader % 3;
        // The others still reach it, and whoever asks them may change jobs; the leader takes that up when it can.
        work.add_by(&cluster.api_of(follower), &cluster, &format!("added-{number}"), 1, "w end", json!({}));
        let refused = cluster.api_of(leader).call("POST", "/jobs", &[], Some(r#"{"name":"refused","schedule":"@daily","command":"true"}"#));
        assert_eq!(refused.expect(503)["code"], "store_unavailable");
        let starts = cluster.witness.starts_of(&work.jobs[0].value).len();
        cluster.witness.wait_starts(&work.jobs[0].value, starts + 5);
        wait_until_ms(cut_ms + CUT_MS);
        heal(&network, &cluster, &work);
    }
    work.finish(&cluster).check_undisturbed(&work);
}
