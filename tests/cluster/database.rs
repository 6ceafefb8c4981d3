//! PostgreSQL away: schedules go on, writes are refused loudly, and afterwards history is what the witness saw.

use serde_json::{Value, json};

use crate::api::Api;
use crate::cluster::Cluster;
use crate::wait::{eventually, now_ms, wait_until_ms};
use crate::work::Work;

const QUIET_MS: i64 = 4_000;

/// A write is answered as the API promises while the database is away.
#[track_caller]
fn check_refused(cluster: &Cluster) {
    for id in cluster.up() {
        let body = json!({"name": format!("refused-by-{id}"), "schedule": "@daily", "command": "true"}).to_string();
        let refused = cluster.api_of(id).call("POST", "/jobs", &[], Some(&body));
        assert!(refused.header("retry-after").is_some_and(|wait| wait.parse::<u32>().is_ok()), "{} {}", refused.status, refused.text);
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        let problem = refused.expect(503);
        assert_eq!((&problem["status"], &problem["code"]), (&json!(503), &json!("store_unavailable")));
    }
}

/// Reads of jobs and of recent runs go on, by each controller.
#[track_caller]
fn check_reads(cluster: &Cluster, work: &Work) {
    let newest = cluster.witness.starts_of(&work.jobs[0].value).pop().expect("it runs");
    for id in cluster.up() {
        let api = cluster.api_of(id);
        let jobs = api.get("/jobs");
        assert_eq!(jobs.header("x-chrono-flow-source"), Some("ledger"));
        assert_eq!(jobs.expect(200).as_array().map(Vec::len), Some(work.jobs.len()));
        assert_eq!(api.wait_ended(&newest.run).state, "succeeded");
        let has_reason = eventually("it says that it is not ready", || {
            let answer = api.get("/readyz");
            (answer.status == 503).then(|| answer.json()["reasons"].clone())
        });
        assert!(has_reason["store"].is_string(), "{has_reason}");
    }
}

#[track_caller]
fn wait_writable(api: &Api) {
    let body = json!({"schedule": "@daily", "command": "true", "is_enabled": false}).to_string();
    eventually("writes work again", || {
        let answer = api.try_call("PUT", "/jobs/by-name/again", &[], Some(&body)).ok()?;
        [200, 201].contains(&answer.status).then_some(())
    });
    let made: Value = api.get("/jobs?name=again").expect(200)[0].clone();
    api.delete(&made);
}

#[test]
fn while_the_database_is_away_for_half_a_minute_schedules_go_on_and_nothing_is_missing_afterwards() {
    let mut cluster = Cluster::start();
    let mut work = Work::start(&cluster);
    wait_until_ms(now_ms() + QUIET_MS);
    cluster.postgres.stop();
    let stopped_ms = now_ms();
    check_refused(&cluster);
    let ticks = |cluster: &Cluster, work: &Work| cluster.witness.starts_of(&work.jobs[0].value).len();
    let before = ticks(&cluster, &work);
    eventually("fires go on", || (ticks(&cluster, &work) >= before + 4).then_some(()));
    check_reads(&cluster, &work);
    wait_until_ms(stopped_ms + 30_000);
    check_refused(&cluster);
    cluster.postgres.start_again();
    for id in cluster.up() {
        wait_writable(&cluster.api_of(id));
    }
    cluster.wait_ready();
    wait_until_ms(now_ms() + QUIET_MS);
    work.finish(&cluster).check_undisturbed(&work);
}

#[test]
fn all_controllers_may_restart_while_the_database_is_away() {
    let mut cluster = Cluster::start();
    let mut work = Work::start(&cluster);
    wait_until_ms(now_ms() + QUIET_MS);
    cluster.postgres.stop();
    let stopped_ms = now_ms();
    wait_until_ms(stopped_ms + 2_000);
    for node in cluster.controllers.values_mut() {
        node.kill();
    }
    for node in cluster.controllers.values_mut() {
        node.start();
    }
    cluster.wait_leader();
    let before = cluster.witness.starts_of(&work.jobs[0].value).len();
    cluster.witness.wait_starts(&work.jobs[0].value, before + 4);
    for id in cluster.up() {
        eventually("the API is served", || cluster.view(id));
    }
    check_refused(&cluster);
    check_reads(&cluster, &work);
    wait_until_ms(stopped_ms + 12_000);
    cluster.postgres.start_again();
    for id in cluster.up() {
        wait_writable(&cluster.api_of(id));
    }
    cluster.wait_ready();
    wait_until_ms(now_ms() + QUIET_MS);
    work.finish(&cluster).check_undisturbed(&work);
}

#[test]
fn a_database_that_hangs_or_crashes_is_one_that_is_away() {
    let mut cluster = Cluster::start();
    let mut work = Work::start(&cluster);
    wait_until_ms(now_ms() + QUIET_MS);
    cluster.postgres.pause();
    let paused_ms = now_ms();
    let before = cluster.witness.starts_of(&work.jobs[0].value).len();
    cluster.witness.wait_starts(&work.jobs[0].value, before + 5);
    check_refused(&cluster);
    wait_until_ms(paused_ms + 12_000);
    cluster.postgres.resume();
    for id in cluster.up() {
        wait_writable(&cluster.api_of(id));
    }
    cluster.postgres.stop_immediate();
    wait_until_ms(now_ms() + 2_000);
    cluster.postgres.start_again();
    for id in cluster.up() {
        wait_writable(&cluster.api_of(id));
    }
    cluster.wait_ready();
    wait_until_ms(now_ms() + QUIET_MS);
    work.finish(&cluster).check_undisturbed(&work);
}
