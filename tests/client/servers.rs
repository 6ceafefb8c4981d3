//! Which server is asked, and what becomes of a command when there is none.

use std::time::Instant;

use serde_json::json;

use crate::server::Place;
use crate::shell::Shell;

#[test]
fn without_a_server_the_exit_code_is_3_after_a_while() {
    let started = Instant::now();
    let err = Shell::at("http://127.0.0.1:1").fails(3, &["job", "list"]);
    assert!(err.starts_with("error: http://127.0.0.1:1 can't be reached: "), "{err}");
    let elapsed_s = started.elapsed().as_secs();
    assert!((5..30).contains(&elapsed_s), "{elapsed_s} s");
}

#[test]
fn of_several_servers_the_one_that_answers_is_asked() {
    let place = Place::new();
    let server = place.start();
    let shell = Shell::at(&format!("127.0.0.1:1, http://{}/", server.address()));
    let started = Instant::now();
    assert_eq!(shell.json(&["job", "list"]), json!([]));
    shell.ok(&["job", "create", "a", "--schedule", "@daily", "--command", "true"]);
    assert_eq!(shell.json(&["job", "list", "--server", server.address()]).as_array().unwrap().len(), 1);
    assert!(started.elapsed().as_secs() < 10, "no time is lost on a server that is not there");
}

#[test]
fn the_environment_of_a_servers_flags_does_not_matter_to_a_client() {
    let place = Place::new();
    let server = place.start();
    let shell = Shell::new(&server).env("CHRONO_FLOW_SLOTS", "many").env("CHRONO_FLOW_ROLE", "nonsense").env("CHRONO_FLOW_DATA_DIR", "");
    assert_eq!(shell.json(&["job", "list"]), json!([]));
}

#[test]
fn workers_and_the_cluster_are_shown() {
    let place = Place::new();
    let server = place.start();
    let (shell, api) = (Shell::new(&server), server.api());
    assert_eq!(shell.json(&["worker", "list"])[0]["id"], api.get("/workers").json()[0]["id"]);
    let workers = shell.ok(&["worker", "list"]);
    assert!(workers.starts_with("ID ") && workers.contains("  ready  "), "{workers}");
    assert_eq!(shell.json(&["cluster", "status"])["cluster_id"], api.get("/cluster").json()["cluster_id"]);
    let status = shell.ok(&["cluster", "status"]);
    assert!(status.contains("leader     1\n") && status.contains("  leader  yes  "), "{status}");

    // The only member can't go, and has nobody to hand over to.
    let err = shell.fails(1, &["cluster", "remove", "1"]);
    assert!(err.contains("[conflict]"), "{err}");
    assert!(shell.fails(1, &["cluster", "add", "2", "nowhere"]).contains("[invalid_value, field address]"));
    shell.fails(2, &["cluster", "replace", "9"]);
}
