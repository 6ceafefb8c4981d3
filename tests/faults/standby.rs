//! The database fails over to a standby.

use serde_json::json;

use crate::cluster::{Cluster, Options};
use crate::wait::{eventually, now_ms, wait_until_ms};
use crate::work::Work;

const QUIET_MS: i64 = 3_000;

#[test]
fn when_the_database_dies_and_its_standby_is_promoted_nothing_is_missing_from_history() {
    let mut cluster = Cluster::prepare(Options::default());
    let standby = cluster.postgres.standby();
    // What is answered is on both: without that, PostgreSQL itself may lose what it has acknowledged.
    cluster.postgres.set("synchronous_standby_names", "*");
    let url = cluster.postgres.url();
    let second = format!("127.0.0.1:{}", standby.port());
    let (login, rest) = url.split_once('@').expect("a user");
    let (first, database) = rest.split_once('/').expect("a database");
    let both = format!("{login}@{first},{second}/{database}?target_session_attrs=read-write");
    for node in cluster.controllers.values_mut() {
        node.set_flag("--database-url", &both);
    }
    cluster.start_all();
    cluster.wait_ready();
    let mut work = Work::start(&cluster);
    wait_until_ms(now_ms() + QUIET_MS);
    cluster.postgres.stop_immediate();
    let died_ms = now_ms();
    let starts = cluster.witness.starts_of(&work.jobs[0].value).len();
    wait_until_ms(died_ms + QUIET_MS);
    standby.promote();
    for id in cluster.up() {
        let body = json!({"schedule": "@daily", "command": "true", "is_enabled": false}).to_string();
        eventually("it takes writes again", || {
            let answer = cluster.api_of(id).try_call("PUT", "/jobs/by-name/again", &[], Some(&body)).ok()?;
            [200, 201].contains(&answer.status).then_some(())
        });
    }
    cluster.witness.wait_starts(&work.jobs[0].value, starts + 5);
    // A job that is made now is one of the new server's, and fires.
    work.add(&cluster, "made-afterwards", 1, "w end", json!({}));
    wait_until_ms(now_ms() + QUIET_MS);
    cluster.wait_ready();
    work.finish(&cluster).check_undisturbed(&work);
}
