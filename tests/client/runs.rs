//! `job run`, `run …`

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::server::{Place, Server, eventually};
use crate::shell::{Shell, left};

fn create(shell: &Shell, name: &str, command: &str) {
    shell.ok(&["job", "create", name, "--schedule", "0 0 1 1 *", "--catch-up", "none", "--command", command]);
}

#[test]
fn waiting_for_a_run_shows_its_output_and_ends_as_it_does() {
    let place = Place::new();
    let server = place.start();
    let shell = Shell::new(&server);
    create(&shell, "good", "echo out; echo err >&2; echo more");
    create(&shell, "bad", "echo out; exit 3");
    let good = shell.run(&["job", "run", "good", "--wait"]);
    assert_eq!((good.code, good.out.as_str()), (0, "out\nmore\n"));
    let lines: Vec<&str> = good.err.lines().collect();
    assert!(lines[0].starts_with("run ") && lines[0].ends_with(" of job 1 `good`"), "{}", good.err);
    assert!(lines[1] == "err" && lines[2].contains(": succeeded after 0."), "{}", good.err);

    let bad = shell.run(&["job", "run", "bad", "--wait"]);
    assert_eq!((bad.code, bad.out.as_str()), (1, "out\n"));
    assert!(bad.err.contains(": failed: exit code 3 after 0."), "{}", bad.err);
    let bad = shell.run(&["-o", "json", "job", "run", "bad", "--wait"]);
    let run: serde_json::Value = serde_json::from_str(&bad.out).expect("one document");
    assert_eq!((bad.code, &run["state"], &run["exit_code"]), (1, &json!("failed"), &json!(3)));

    // Nobody reads, and the run goes on to its end.
    create(&shell, "long", "i=0; while [ $i -lt 50 ]; do echo 0123456789; i=$((i+1)); sleep 0.01; done; exit 4");
    let mut child = shell.command(&["job", "run", "long", "--wait"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let long = left(child.wait_with_output().unwrap());
    assert_eq!(long.code, 1, "{}", long.err);
    assert!(long.err.contains("exit code 4"), "{}", long.err);
}

#[test]
fn runs_are_listed_shown_and_named_by_their_beginning() {
    let place = Place::new();
    let server = place.start();
    let shell = Shell::new(&server);
    create(&shell, "good", "printf 'a\\r\\n\\377'; echo err >&2");
    create(&shell, "bad", "exit 3");
    let run = shell.json(&["job", "run", "good", "--idempotency-key", "k"]);
    assert_eq!(shell.json(&["job", "run", "1", "--idempotency-key", "k"])["id"], run["id"]);
    let id = run["id"].as_str().unwrap().to_owned();
    shell.run(&["job", "run", "bad", "--wait"]);
    shell.ok(&["run", "logs", "-f", &id]);

    let runs = shell.json(&["run", "list"]);
    assert_eq!(runs.as_array().unwrap().len(), 2);
    assert_eq!(shell.json(&["run", "list", "-n", "1"]), json!([runs[0]]));
    let ids = |args: &[&str]| shell.json(&[&["run", "list"], args].concat()).as_array().unwrap().len();
    assert_eq!((ids(&["--job", "good"]), ids(&["--job", "2"]), ids(&["--state", "failed,lost"])), (1, 1, 1));
    assert_eq!((ids(&["--since", "1h"]), ids(&["--until", "1h"]), ids(&["--since", "1h", "--job", "good", "-n", "0"])), (2, 0, 1));
    shell.fails(1, &["run", "list", "--state", "odd"]);
    shell.fails(1, &["run", "list", "--job", "none"]);
    let table = shell.ok(&["run", "list"]);
    assert!(table.starts_with("ID ") && table.contains("  exit code 3\n") && table.contains("  succeeded  20"), "{table}");

    assert_eq!(shell.json(&["run", "show", &id])["id"], id.as_str());
    // Ids with a key are drawn from a hash, so the beginning is enough.
    assert_eq!(shell.json(&["run", "show", &id[..12]])["id"], id.as_str());
    assert!(shell.ok(&["run", "show", &id]).contains("succeeded"));
    assert!(shell.fails(1, &["run", "show", "00000000"]).contains("no recent run"));
    assert!(shell.fails(1, &["run", "show", "00000000-0000-0000-0000-000000000000"]).contains("[no_such_run]"));
    let raw = shell.command(&["run", "logs", &id, "--stream", "stdout"]).output().unwrap();
    assert_eq!(raw.stdout, b"a\r\n\xff");
    assert_eq!(shell.ok(&["run", "logs", &id, "--stream", "stderr"]), "err\n");

    shell.ok(&["job", "delete", "2"]);
    assert_eq!(ids(&["--job", "2"]), 1, "the history of a deleted job");
}

#[test]
fn a_run_is_cancelled() {
    let place = Place::new();
    let server = place.start();
    let shell = Shell::new(&server);
    create(&shell, "long", "sleep 600");
    let id = shell.json(&["job", "run", "long"])["id"].as_str().unwrap().to_owned();
    eventually("it runs", || (shell.json(&["run", "show", &id])["state"] == "running").then_some(()));
    shell.ok(&["run", "cancel", &id]);
    eventually("it ends", || (shell.json(&["run", "show", &id])["state"] == "cancelled").then_some(()));
    assert!(shell.ok(&["run", "cancel", &id]).contains(": cancelled"));
}

/// Passes connections on to the server, and cuts the first followed output off after some bytes.
fn cutting_proxy(server: &Server) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let target = server.address().to_owned();
    let follows = Arc::new(AtomicUsize::new(0));
    let counted = follows.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (target, counted) = (target.clone(), counted.clone());
            std::thread::spawn(move || pass(client, &target, &counted));
        }
    });
    (address, follows)
}

fn pass(client: TcpStream, target: &str, follows: &AtomicUsize) {
    let server = TcpStream::connect(target).unwrap();
    let mut request = BufReader::new(client.try_clone().unwrap());
    let mut first = String::new();
    request.read_line(&mut first).unwrap();
    let is_cut = first.contains("follow=true") && follows.fetch_add(1, Ordering::SeqCst) == 0;
    let mut to_server = server.try_clone().unwrap();
    to_server.write_all(first.as_bytes()).unwrap();
    std::thread::spawn(move || std::io::copy(&mut request, &mut to_server));
    let mut to_client = client.try_clone().unwrap();
    // Enough for the head and a few events.
    let _ = std::io::copy(&mut server.take(if is_cut { 700 } else { u64::MAX }), &mut to_client);
    let _ = client.shutdown(std::net::Shutdown::Both);
}

#[test]
fn following_goes_on_after_a_broken_connection_and_ends_with_the_run() {
    let place = Place::new();
    let server = place.start();
    let (proxy, follows) = cutting_proxy(&server);
    let shell = Shell::at(&proxy);
    let gate = place.path("go");
    let lines = "for i in 1 2 3 4 5 6 7 8 9; do echo line $i of many; sleep 0.05; done";
    create(&shell, "chatty", &format!("{lines}; until [ -e '{}' ]; do sleep 0.02; done; echo last", gate.display()));
    let id = shell.json(&["job", "run", "chatty"])["id"].as_str().unwrap().to_owned();
    let mut child = shell.command(&["run", "logs", "-f", &id]).stdout(Stdio::piped()).spawn().unwrap();
    let mut seen = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    for line in 1..=9 {
        assert_eq!(seen.next(), Some(format!("line {line} of many")));
    }
    fs::write(&gate, "").unwrap();
    assert_eq!((seen.next(), seen.next()), (Some("last".to_owned()), None));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(follows.load(Ordering::SeqCst) >= 2, "the connection was cut");
}
