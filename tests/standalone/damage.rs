//! Damaged, cut short and foreign data: refused, with the file's name and what to do; and nothing is written over it.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::audit::Story;
use crate::server::Place;
use crate::witness::Witness;

/// A data directory that has seen some work and was stopped properly; its server's cluster id.
fn used(place: &Place) -> String {
    let witness = Witness::new(place);
    let mut server = place.start();
    let job = server.api().create(json!({"name": "ticking", "schedule": "* * * * * *", "command": witness.command("w end")}));
    witness.wait_starts(&job, 2);
    let cluster = server.api().get("/cluster").expect(200)["cluster_id"].as_str().unwrap().to_owned();
    server.stop();
    cluster
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy(&from, &to) } else { fs::copy(&from, &to).map(|_| ()).unwrap() }
    }
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Starts the program on a copy of the data that `harm` was done to; it must refuse and name `file`.
fn assert_refused(what: &str, sound: &Place, harm: impl FnOnce(&Path), file: &str) {
    let place = Place::new();
    let data = place.path("data");
    copy(&sound.path("data"), &data);
    harm(&data);
    let harmed = fs::read(data.join(file)).ok();
    let mut server = place.launch(&[], &[]);
    let status = server.wait_exit();
    let log = server.log().join("\n");
    assert_eq!(status.code(), Some(1), "{what}\n{log}");
    assert!(!log.contains("panicked") && !log.contains("RUST_BACKTRACE"), "{what}\n{log}");
    let message = server.log().into_iter().find(|line| line.contains("ERROR")).unwrap_or_else(|| panic!("{what}: no error\n{log}"));
    assert!(message.contains(file), "{what}: the message does not name {file}: {message}");
    let advice = ["restore", "move", "name another", "put back", "start with", "put it back"];
    assert!(advice.iter().any(|word| message.to_lowercase().contains(word)), "{what}: it does not say what to do: {message}");
    assert_eq!(fs::read(data.join(file)).ok(), harmed, "{what}: what was refused was written to");
    eprintln!("{what}: {message}");
}

#[test]
fn damaged_data_is_refused_by_the_files_name_with_what_to_do() {
    let sound = Place::new();
    used(&sound);
    let log = "raft/log.redb";
    let database = "chrono-flow.sqlite";
    let harm = |file: &'static str, harm: fn(&mut Vec<u8>)| move |data: &Path| change(&data.join(file), harm);
    let scatter = |bytes: &mut Vec<u8>| bytes.iter_mut().skip(4096).step_by(61).for_each(|byte| *byte ^= 0x55);
    assert_refused("log: its beginning is flipped", &sound, harm(log, |bytes| bytes[..9].iter_mut().for_each(|byte| *byte ^= 0xff)), log);
    assert_refused("log: bytes are flipped all over", &sound, harm(log, scatter), log);
    assert_refused("log: cut in half", &sound, harm(log, |bytes| bytes.truncate(bytes.len() / 2)), log);
    assert_refused("log: gone", &sound, |data| fs::remove_file(data.join(log)).unwrap(), log);
    assert_refused("identity: a letter is flipped", &sound, harm("raft/identity", |bytes| bytes[60] ^= 1), "raft/identity");
    assert_refused("database: cut in half", &sound, harm(database, |bytes| bytes.truncate(bytes.len() / 2)), database);
    assert_refused("database: bytes are flipped all over", &sound, harm(database, scatter), database);
    assert_refused("database: something else", &sound, harm(database, |bytes| *bytes = b"name,amount\n".repeat(99)), database);
    assert_refused("worker's id: something else", &sound, harm("worker/worker.id", |bytes| *bytes = b"me".to_vec()), "worker/worker.id");
}

#[test]
fn another_clusters_ledger_or_database_is_refused() {
    let (ours, theirs) = (Place::new(), Place::new());
    let their_id = std::thread::scope(|scope| {
        let other = scope.spawn(|| used(&theirs));
        used(&ours);
        other.join().unwrap()
    });
    let foreign_raft = |data: &Path| {
        fs::remove_dir_all(data.join("raft")).unwrap();
        copy(&theirs.path("data/raft"), &data.join("raft"));
    };
    let foreign_database = |data: &Path| {
        fs::copy(theirs.path("data/chrono-flow.sqlite"), data.join("chrono-flow.sqlite")).unwrap();
    };
    assert!(!their_id.is_empty());
    assert_refused("another cluster's ledger", &ours, foreign_raft, "chrono-flow.sqlite");
    assert_refused("another cluster's database", &ours, foreign_database, "chrono-flow.sqlite");
}

#[test]
fn the_advice_works_a_ledger_moved_away_is_made_anew_from_the_database_and_no_fire_comes_twice() {
    let place = Place::new();
    used(&place);
    fs::rename(place.path("data/raft"), place.path("raft-away")).unwrap();
    let witness = Witness::new(&place);
    let mut server = place.start();
    let api = server.api();
    let job = api.get("/jobs/1").expect(200);
    let seen = witness.starts_of(&job).len();
    witness.wait_starts(&job, seen + 2);
    api.patch(&job, json!({"is_enabled": false}));
    let (rows, lines) = (api.wait_settled(), witness.lines());
    Story::of(&job, &rows, &lines).check_witness();
    server.stop();
}

#[test]
fn a_database_older_than_the_ledger_takes_no_writes_until_somebody_says_which_is_right() {
    let place = Place::new();
    used(&place);
    for file in ["chrono-flow.sqlite", "chrono-flow.sqlite-wal", "chrono-flow.sqlite-shm"] {
        let _ = fs::remove_file(place.path("data").join(file));
    }
    let mut server = place.launch(&[], &[]);
    server.wait_listening();
    let told = server.wait_log("the database is older than the ledger");
    assert!(told.contains("move the ledger's directory (raft) away"), "{told}");
    let api = server.api();
    for _ in 0..3 {
        let refused = api.call("POST", "/jobs", &[], Some(r#"{"name": "x", "schedule": "@daily", "command": "true"}"#));
        assert!(refused.text.contains("the database is older than the ledger"), "{}", refused.text);
        refused.expect(503);
    }
    assert_eq!(api.get("/readyz").status, 503);
    server.stop();

    // As the log says: the jobs of this database, which are none, are what there is.
    fs::remove_dir_all(place.path("data/raft")).unwrap();
    let mut server = place.start();
    assert_eq!(server.api().get("/jobs").expect(200), json!([]));
    server.stop();
}
