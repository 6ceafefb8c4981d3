//! Who takes part, and whether this node does.

use chrono_flow::engine::api::Readiness;
use serde_json::json;

use crate::server::TestServer;

#[test]
fn workers_and_members_are_listed() {
    let server = TestServer::start();
    let worker = json!({"id": "worker-1", "address": "127.0.0.1:50051", "labels": {}, "slots": 64, "running": 1, "staged": 2, "state": "ready",
        "lease_expires_at": "2026-09-21T14:13:35Z"});
    assert_eq!(server.get("/workers").json(), json!([worker]));
    let cluster = json!({"cluster_id": "00000000-0000-0000-0000-000000000007", "leader": 1, "term": 2, "commit": 9, "applied": 9,
        "members": [{"id": 1, "address": "127.0.0.1:12000", "role": "leader", "reachable": true, "applied": 9}]});
    assert_eq!(server.get("/cluster").json(), cluster);
}

#[test]
fn a_node_that_is_not_ready_says_why_and_still_lives() {
    let server = TestServer::start();
    assert_eq!(server.get("/readyz").status, 200);
    server.engine.state().readiness = Readiness { store: Some("the disk is full".into()), ..Readiness::default() };
    let answer = server.get("/readyz");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    let problem = answer.json();
    assert_eq!((&problem["code"], &problem["reasons"]), (&json!("not_ready"), &json!({"store": "the disk is full"})));
    assert_eq!(server.get("/healthz").json(), json!({"status": "ok"}));
}

#[test]
fn the_root_points_the_way() {
    let server = TestServer::start();
    assert!(server.get("/").json()["paths"].as_array().unwrap().contains(&json!("/jobs")));
}
