//! Requests that are asked again until they are done, and those that are not: against a server that answers as a test says, because a
//! controller that is slow to catch up can't be had at will.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::shell::Shell;

type Script = dyn Fn(&str, usize) -> (u16, Value) + Send + Sync;

/// The requests that came, and the address at which they are answered by `script`: it gets the request's method and path, and how often
/// this one came before.
fn serve(script: impl Fn(&str, usize) -> (u16, Value) + Send + Sync + 'static) -> (Shell, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let shell = Shell::at(&listener.local_addr().unwrap().to_string());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (seen, script): (_, Arc<Script>) = (requests.clone(), Arc::new(script));
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (seen, script) = (seen.clone(), script.clone());
            std::thread::spawn(move || answer(client, &seen, &*script));
        }
    });
    (shell, requests)
}

fn answer(mut client: TcpStream, seen: &Mutex<Vec<String>>, script: &Script) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut lines = reader.by_ref().lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    let heads: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let length = heads.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let request = first.rsplit_once(' ').map_or(String::new(), |(request, _)| request.to_owned());
    let shown = format!("{request} {}", String::from_utf8_lossy(&body)).trim_end().to_owned();
    let before = {
        let mut seen = seen.lock().unwrap();
        seen.push(shown.clone());
        seen.iter().filter(|other| **other == shown).count() - 1
    };
    let (status, body) = script(&request, before);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!("HTTP/1.1 {status} -\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: {}\r\n\r\n", body.len());
    let _ = client.write_all((head + &body).as_bytes());
}

fn cluster(role: &str, is_reachable: bool) -> Value {
    let member = |id: u64, role: &str, reachable: bool| json!({"id": id, "address": format!("c-{id}:1"), "role": role, "reachable": reachable, "applied": 5});
    json!({"cluster_id": "x", "leader": 1, "term": 2, "commit": 9, "applied": 9,
        "members": [member(1, "leader", true), member(3, role, is_reachable)]})
}

fn not_yet() -> (u16, Value) {
    (503, json!({"code": "unavailable", "detail": "node 3 has not caught up", "status": 503}))
}

fn changes(requests: &Mutex<Vec<String>>) -> Vec<String> {
    requests.lock().unwrap().iter().filter(|request| !request.starts_with("GET")).cloned().collect()
}

#[test]
fn a_member_is_asked_for_until_it_votes_and_its_progress_is_told() {
    let (shell, requests) = serve(|request, before| match request {
        "POST /cluster/members" if before < 2 => not_yet(),
        "POST /cluster/members" => (201, cluster("follower", true)),
        _ => (200, cluster("learner", true)),
    });
    let left = shell.run(&["cluster", "add", "3", "c-3:1"]);
    assert_eq!((left.code, left.out.as_str()), (0, "controller 3 at c-3:1 is a member and votes\n"), "{}", left.err);
    assert_eq!(left.err.lines().next(), Some("waiting: controller 3 is a learner, at entry 5 of 9"));
    assert_eq!(changes(&requests), [r#"POST /cluster/members {"address":"c-3:1","id":3}"#; 3]);
}

#[test]
fn a_dead_controller_is_replaced_and_a_replacement_that_was_broken_off_goes_on() {
    let add = r#"POST /cluster/members {"address":"c-3:1","id":3}"#;
    let (shell, requests) = serve(|request, _| match request {
        "POST /cluster/members" => (201, cluster("follower", true)),
        "DELETE /cluster/members/3" => (204, Value::Null),
        _ => (200, cluster("follower", false)),
    });
    let left = shell.run(&["cluster", "replace", "3"]);
    assert_eq!(left.code, 0, "{}", left.err);
    assert!(left.err.contains("(--node-id 3) and an empty --data-dir, reachable at c-3:1"), "{}", left.err);
    assert_eq!(changes(&requests), ["DELETE /cluster/members/3", add]);

    let (shell, requests) = serve(|request, _| match request {
        "POST /cluster/members" => (201, cluster("follower", true)),
        _ => (200, cluster("learner", false)),
    });
    assert_eq!(shell.run(&["cluster", "replace", "3"]).code, 0);
    assert_eq!(changes(&requests), [add], "what is new already is not taken out again");
}

#[test]
fn what_may_not_be_repeated_is_sent_once_and_what_may_be_is_sent_again() {
    let (shell, requests) = serve(|_, _| not_yet());
    let err = shell.fails(3, &["job", "create", "a", "--schedule", "@daily", "--command", "true"]);
    assert!(err.contains("node 3 has not caught up [unavailable]; try again later"), "{err}");
    assert_eq!(changes(&requests).len(), 1);

    let job = || (200, json!({"id": 1, "name": "a"}));
    let (shell, requests) = serve(move |request, before| match request {
        "POST /jobs/1/run" if before == 0 => not_yet(),
        "POST /jobs/1/run" => (202, json!({"id": "r", "state": "queued"})),
        _ => job(),
    });
    assert_eq!(shell.ok(&["job", "run", "1"]), "run r of job 1 `a`: queued\n");
    assert_eq!(changes(&requests).len(), 2);
}
