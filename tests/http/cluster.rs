//! Who takes part, and whether this node does.

use chrono_flow::engine::api::{EngineError, Readiness};
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
fn members_are_added_removed_and_lead_on_request() {
    let server = TestServer::start();
    let added = server.send_json("POST", "/cluster/members", &json!({"id": 4, "address": "controller-4:12000"}));
    assert_eq!((added.status, added.header("location")), (201, Some("/cluster")));
    assert_eq!(added.json()["cluster_id"], "00000000-0000-0000-0000-000000000007");
    assert_eq!(server.send("DELETE", "/cluster/members/4", &[], "").status, 204);
    assert_eq!(server.send("POST", "/cluster/transfer", &[], "").status, 200);
    assert_eq!(server.send_json("POST", "/cluster/transfer", &json!({"to": null})).status, 200);
    let handed = server.send_json("POST", "/cluster/transfer", &json!({"to": 3}));
    assert_eq!((handed.status, &handed.json()["leader"]), (200, &json!(1)));
    let wishes = ["add 4 controller-4:12000", "remove 4", "transfer None", "transfer None", "transfer Some(3)"];
    assert_eq!(server.engine.state().member_wishes, wishes);
}

#[test]
fn a_wrong_wish_is_refused_by_name_and_never_reaches_the_engine() {
    let server = TestServer::start();
    let refused = |method: &str, path: &str, body: serde_json::Value| server.send_json(method, path, &body).problem();
    let refusal = |code: &str, field: &str| (422, code.to_owned(), field.to_owned());
    let add = |body| refused("POST", "/cluster/members", body);
    assert_eq!(add(json!({"address": "a:1"})), refusal("missing_field", "id"));
    assert_eq!(add(json!({"id": 4})), refusal("missing_field", "address"));
    assert_eq!(add(json!({"id": 4, "address": "a:1", "role": "voter"})), refusal("unknown_field", "role"));
    for id in [json!(0), json!(-1), json!(1.5), json!("4"), json!(null)] {
        assert_eq!(add(json!({"id": id, "address": "a:1"})), refusal("invalid_value", "id"));
    }
    for address in [json!("a"), json!("a:0"), json!("http://a:1"), json!(7)] {
        assert_eq!(add(json!({"id": 4, "address": address})), refusal("invalid_value", "address"));
    }
    assert_eq!(refused("POST", "/cluster/transfer", json!({"to": 0})), refusal("invalid_value", "to"));
    assert_eq!(refused("POST", "/cluster/transfer", json!({"whom": 1})), refusal("unknown_field", "whom"));
    for id in ["0", "-1", "x"] {
        let path = format!("/cluster/members/{id}");
        assert_eq!(server.send("DELETE", &path, &[], "").problem(), (404, "no_such_member".into(), String::new()));
    }
    assert_eq!(server.engine.state().member_wishes, Vec::<String>::new());
}

#[test]
fn what_the_members_can_not_do_is_a_conflict_and_what_they_can_not_do_yet_may_be_asked_again() {
    let server = TestServer::start();
    for (trouble, status, code) in [
        (EngineError::Conflict("node 4 is a member already".into()), 409, "conflict"),
        (EngineError::Unavailable("node 4 has not caught up".into()), 503, "unavailable"),
        (EngineError::NoLeader("electing".into()), 503, "no_leader"),
    ] {
        server.engine.state().member_trouble = Some(trouble);
        for (method, path, body) in [
            ("POST", "/cluster/members", r#"{"id": 4, "address": "a:1"}"#),
            ("DELETE", "/cluster/members/4", ""),
            ("POST", "/cluster/transfer", ""),
        ] {
            let answer = server.send(method, path, &[crate::server::JSON], body);
            assert_eq!(answer.header("retry-after").is_some(), status == 503);
            assert_eq!(answer.problem(), (status, code.to_owned(), String::new()), "{method} {path}");
        }
    }
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
