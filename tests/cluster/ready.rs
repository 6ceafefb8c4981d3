//! `/readyz` tells the truth at each stage of a cluster's life.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::wait::eventually;

/// Waits until a controller's API answers that it is not ready for this reason.
#[track_caller]
fn wait_unready(cluster: &Cluster, id: u64, part: &str) -> Value {
    let address = cluster.http_address(id);
    let api = crate::api::Api::any_of(&[address]);
    eventually(&format!("controller {id} is not ready because of its {part}"), || {
        let answer = api.try_call("GET", "/readyz", &[], None).ok()?;
        let is_so = answer.status == 503 && answer.header("retry-after").is_some();
        let reasons = answer.json()["reasons"].clone();
        (is_so && reasons[part].is_string()).then_some(reasons)
    })
}

#[test]
fn a_controller_is_ready_when_it_can_do_its_part_and_says_why_when_it_cannot() {
    let mut cluster = Cluster::prepare(Default::default());
    assert!(cluster.controllers[&1].healthcheck(&[]).unwrap_err().starts_with("error: no answer from 127."));
    assert!(cluster.workers["worker-1"].healthcheck(&[]).unwrap_err().starts_with("error: no answer from 127."));
    cluster.controller(1).start();
    wait_unready(&cluster, 1, "leader");
    assert_eq!(cluster.api_of(1).get("/healthz").status, 200, "it lives");
    assert!(cluster.controllers[&1].healthcheck(&[]).is_ok());
    assert!(cluster.controllers[&1].healthcheck(&["--ready"]).unwrap_err().contains("leader"));
    cluster.worker("worker-2").start();
    eventually("a worker without a cluster lives", || cluster.workers["worker-2"].healthcheck(&[]).ok());
    let not_ready = Err("error: not ready: no controller has taken it yet".to_owned());
    assert_eq!(cluster.workers["worker-2"].healthcheck(&["--ready"]), not_ready);
    cluster.worker("worker-2").kill();
    // A cluster is founded when all who found it are there.
    for id in [2, 3] {
        cluster.controller(id).start();
    }
    for id in 1..=3 {
        let reasons = wait_unready(&cluster, id, "worker");
        assert!(reasons["store"].is_null(), "{reasons}");
    }
    cluster.worker("worker-1").start();
    cluster.wait_ready();
    assert!(cluster.controllers[&1].healthcheck(&["--ready"]).is_ok());
    assert_eq!(cluster.workers["worker-1"].healthcheck(&["--ready"]), Ok("ready".to_owned()));

    cluster.postgres.stop();
    for id in 1..=3 {
        wait_unready(&cluster, id, "store");
    }
    cluster.postgres.start_again();
    cluster.wait_ready();

    let job = cluster.api().create_manual("asked", "true");
    for id in [2, 3] {
        cluster.controller(id).kill();
    }
    wait_unready(&cluster, 1, "leader");
    let refused = cluster.api_of(1).call("POST", &format!("/jobs/{}/run", job["id"]), &[("idempotency-key", "k")], None);
    assert!(refused.header("retry-after").is_some(), "{}", refused.text);
    assert_eq!(refused.expect(503)["code"], json!("no_leader"));
    cluster.controller(3).start();
    cluster.wait_ready();
    let run = cluster.api_of(3).run_now(&job, Some("k"));
    assert_eq!(cluster.api_of(1).wait_ended(run["id"].as_str().expect("an id")).state, "succeeded");
}
