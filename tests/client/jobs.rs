//! `job …`

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use crate::server::Place;
use crate::shell::{Shell, left};

/// A job that fires once a year.
fn create(shell: &Shell, name: &str) {
    shell.ok(&["job", "create", name, "--schedule", "0 0 1 1 *", "--command", "true", "--catch-up", "none"]);
}

/// A script that stands in for an editor.
fn editor(path: &Path, script: &str) -> String {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn a_job_lives_by_its_commands() {
    let place = Place::new();
    let server = place.start();
    let shell = Shell::new(&server);
    let out = shell.ok(&[
        "job",
        "create",
        "Night Backup",
        "--schedule",
        "0 3 * * *",
        "--command",
        "echo -n x",
        "--time-zone",
        "Europe/Berlin",
        "--env",
        "A=1=2",
        "--label",
        "team=ops",
        "--overlap",
        "skip",
        "--timeout-s",
        "60",
        "--retry-max-attempts",
        "3",
        "--disabled",
    ]);
    assert!(out.starts_with("job 1 `Night Backup` created; it does not fire"), "{out}");
    let job = shell.json(&["job", "show", "Night Backup"]);
    assert_eq!((&job["env"], &job["labels"], &job["is_enabled"]), (&json!({"A": "1=2"}), &json!({"team": "ops"}), &json!(false)));
    assert_eq!((&job["overlap"], &job["timeout_s"], &job["retry"]["max_attempts"]), (&json!("skip"), &json!(60), &json!(3)));

    let out = shell.ok(&["job", "resume", "1"]);
    assert!(out.starts_with("job 1 `Night Backup` resumed; next fire 20"), "{out}");
    assert!(shell.ok(&["job", "pause", "Night Backup"]).contains("paused; it does not fire"));
    assert_eq!(shell.json(&["job", "resume", "1"])["is_enabled"], true);
    let out = shell.ok(&["job", "edit", "1", "--env", "B=2", "--unset", "env.A", "--unset", "timeout_s", "--name", "Backup"]);
    assert!(out.starts_with("job 1 `Backup` changed"), "{out}");
    let job = shell.json(&["job", "show", "1"]);
    assert_eq!((&job["env"], &job["timeout_s"], &job["labels"]), (&json!({"B": "2"}), &json!(null), &json!({"team": "ops"})));

    let table = shell.ok(&["job", "next", "Backup", "-n", "2"]);
    assert!(table.lines().count() == 3 && table.lines().nth(1).is_some_and(|line| line.contains(" 03:00:00 +0")), "{table}");
    assert_eq!(shell.json(&["job", "next", "1", "-n", "2"])["next"].as_array().unwrap().len(), 2);
    let shown = shell.ok(&["job", "show", "1"]);
    assert!(shown.contains("env                  B=2\n") || shown.contains("B=2"), "{shown}");

    create(&shell, "other");
    let out = shell.ok(&["job", "delete", "Backup", "other", "--yes"]);
    assert_eq!(out, "job 1 `Backup` deleted\njob 2 `other` deleted\n");
    assert_eq!(shell.json(&["job", "list"]), json!([]));
}

#[test]
fn lists_are_tables_or_one_array_of_all_pages() {
    let place = Place::new();
    let server = place.start();
    let shell = Shell::new(&server);
    assert_eq!(shell.ok(&["job", "list"]).trim(), "ID  NAME  SCHEDULE  TIME ZONE  ENABLED  NEXT FIRE  LAST RUN");
    let api = server.api();
    let add = |number: usize| {
        let labels = json!({"n": (number % 2).to_string()});
        server.api().create(json!({"name": format!("job {number}"), "schedule": "0 0 1 1 *", "command": "true", "labels": labels}));
    };
    add(1);
    std::thread::scope(|scope| {
        for first in 2..10 {
            scope.spawn(move || (first..=1_005).step_by(8).for_each(add));
        }
    });
    let jobs = shell.json(&["job", "list"]);
    assert_eq!(jobs.as_array().unwrap().len(), 1_005);
    assert_eq!(jobs[1_004], api.get("/jobs/1005").json());
    assert_eq!(shell.json(&["job", "list", "--label", "n=0", "--name", "JOB 10"]).as_array().unwrap().len(), 9);
    assert_eq!(shell.json(&["job", "list", "--enabled", "false"]), json!([]));
    let table = shell.ok(&["job", "list"]);
    assert_eq!(table.lines().count(), 1_006);
    let row = table.lines().nth(1).unwrap();
    assert!(row.starts_with("   1  job 1     0 0 1 1 *  UTC        yes      20"), "{row}");
    assert!(!table.contains('\x1b'), "no colours where no terminal is");

    // The list is larger than a pipe holds; its reader goes away at once.
    let mut child = shell.command(&["-o", "json", "job", "list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let left = left(child.wait_with_output().unwrap());
    assert_eq!((left.code, left.err.as_str()), (0, ""));
}

#[test]
fn digits_are_an_id_first_and_a_name_may_be_told_apart() {
    let place = Place::new();
    let server = place.start();
    let shell = Shell::new(&server);
    for name in ["2", "b", "77", "ä/ö ?"] {
        create(&shell, name);
    }
    for (typed, id) in [("2", 2), ("name:2", 1), ("77", 3), ("ä/ö ?", 4), ("4", 4)] {
        assert_eq!(shell.json(&["job", "show", typed])["id"], id, "{typed}");
    }
    let err = shell.fails(1, &["job", "show", "nope"]);
    assert!(err.starts_with("error: there is no such job [no_such_job]; "), "{err}");
    assert_eq!(err.lines().count(), 1);
    // Those that are there are done nevertheless.
    let left = shell.run(&["job", "delete", "nope", "b"]);
    assert_eq!((left.code, left.out.as_str()), (1, "job 2 `b` deleted\n"));
    assert!(left.err.starts_with("error: nope: there is no such job"), "{}", left.err);
}

#[test]
fn what_the_server_refuses_is_said_with_its_field_and_place() {
    let place = Place::new();
    let server = place.start();
    let shell = Shell::new(&server);
    let err = shell.fails(1, &["job", "create", "a", "--schedule", "0 0 * * FOO", "--command", "true"]);
    let lines: Vec<&str> = err.lines().collect();
    assert!(lines[0].starts_with("error: day-of-week, column 9: found `FOO`"), "{err}");
    assert_eq!(lines[1..], ["  0 0 * * FOO", "          ^^^"]);
    let err = shell.fails(1, &["job", "create", "a", "--schedule", "@daily", "--command", "true", "--overlap", "never"]);
    assert!(err.contains("[invalid_value, field overlap]"), "{err}");
    create(&shell, "a");
    let err = shell.fails(1, &["job", "create", "a", "--schedule", "@daily", "--command", "true"]);
    assert!(err.contains("[name_taken, field name]; look at it with `chrono-flow job show 1`"), "{err}");
    shell.fails(2, &["job", "create"]);
    shell.fails(2, &["job", "create", "a", "--timeout-s", "soon"]);
}

#[test]
fn jobs_come_from_files_and_from_an_editor() {
    let place = Place::new();
    let server = place.start();
    let shell = Shell::new(&server);
    let file = place.path("job.json");
    fs::write(&file, r#"{"name": "f", "schedule": "@daily", "command": "true", "env": {"A": "1"}}"#).unwrap();
    let file = file.display().to_string();
    shell.ok(&["job", "create", "-f", &file]);
    shell.ok(&["job", "create", "g", "-f", &file, "--env", "B=2"]);
    assert_eq!(shell.json(&["job", "show", "g"])["env"], json!({"A": "1", "B": "2"}));
    let left = shell.run_with_input(&["job", "edit", "g", "-f", "-"], r#"{"env": {"A": null}, "command": "false"}"#);
    assert_eq!(left.code, 0, "{}", left.err);
    let job = shell.json(&["job", "show", "g"]);
    assert_eq!((&job["env"], &job["command"], &job["revision"]), (&json!({"B": "2"}), &json!("false"), &json!(2)));

    let same = Shell::new(&server).env("EDITOR", &editor(&place.path("same"), "true"));
    let left = same.run(&["job", "edit", "f"]);
    assert_eq!((left.code, left.err.as_str()), (0, "nothing was changed\n"));
    // An editor with arguments of its own.
    let sed = Shell::new(&server).env("EDITOR", "sed -i -e s/@daily/@hourly/ -e /A/d");
    let out = sed.ok(&["job", "edit", "f"]);
    assert!(out.starts_with("job 1 `f` changed"), "{out}");
    let job = shell.json(&["job", "show", "f"]);
    assert_eq!((&job["schedule"], &job["env"], &job["revision"]), (&json!("@hourly"), &json!({}), &json!(2)));

    let fails = Shell::new(&server).env("EDITOR", "false");
    assert!(fails.fails(1, &["job", "edit", "f"]).contains("nothing was changed"));
    let bad = Shell::new(&server).env("EDITOR", "sed -i s/@hourly/@hourly!/");
    let err = bad.fails(1, &["job", "edit", "f"]);
    let kept = err.lines().find_map(|line| line.strip_prefix("your text is kept in ")).expect("the text is kept");
    assert!(fs::read_to_string(kept).unwrap().contains("@hourly!"));
    fs::remove_file(kept).unwrap();
    assert!(err.contains("invalid_schedule") && err.contains("^"), "{err}");

    // Somebody else is faster.
    let other = format!("{} job edit f --command other", env!("CARGO_BIN_EXE_chrono-flow"));
    let race = editor(&place.path("race"), &format!("{other}; sed -i s/@hourly/@weekly/ \"$1\""));
    let err = Shell::new(&server).env("EDITOR", &race).fails(1, &["job", "edit", "f"]);
    assert!(err.contains("[stale]"), "{err}");
    let kept = err.lines().find_map(|line| line.strip_prefix("your text is kept in ")).expect("the text is kept");
    fs::remove_file(kept).unwrap();
    assert_eq!(shell.json(&["job", "show", "f"])["schedule"], "@hourly");
}
