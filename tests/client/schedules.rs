//! `schedule next`, without a server.

use serde_json::json;

use crate::shell::Shell;

fn offline() -> Shell {
    Shell::at("http://127.0.0.1:1")
}

#[test]
fn an_expression_is_reckoned_without_a_server() {
    let args = ["schedule", "next", "0 9 * * MON", "--time-zone", "Europe/Berlin", "-n", "2", "--from", "2026-03-23T00:00:00Z"];
    let fires = json!({"next": ["2026-03-23T08:00:00Z", "2026-03-30T07:00:00Z"]});
    assert_eq!(offline().json(&args), fires);
    let table = offline().ok(&args);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("UTC ") && lines[0].contains("Europe/Berlin"), "{table}");
    assert!(lines[1].starts_with("2026-03-23T08:00:00Z  Mon 2026-03-23 09:00:00 +01:00"), "{table}");
    assert!(lines[2].starts_with("2026-03-30T07:00:00Z  Mon 2026-03-30 09:00:00 +02:00"), "{table}");
    assert_eq!(lines.len(), 3);
}

#[test]
fn what_is_wrong_in_an_expression_is_pointed_at() {
    let err = offline().fails(1, &["schedule", "next", "0 25 * * *"]);
    let lines: Vec<&str> = err.lines().collect();
    assert!(lines[0].starts_with("error: hour, column 3: found `25`") && lines[0].contains("[invalid_schedule, field schedule]"), "{err}");
    assert_eq!(lines[1..], ["  0 25 * * *", "    ^^"]);
    let err = offline().fails(1, &["schedule", "next", "@daily", "--time-zone", "Mars/Olympus"]);
    assert!(err.contains("field time_zone") && err.contains("\n  Mars/Olympus\n  ^^^^^^^^^^^^\n"), "{err}");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [
        &["schedule", "next"][..],
        &["schedule", "next", "@daily", "-n", "0"],
        &["schedule", "next", "@daily", "--from", "yesterday"],
        &["job", "nope"],
        &["job", "list", "-o", "xml"],
        &["--data-dir", "x", "job", "list"],
        &["--server", "ftp://a", "job", "list"],
        &["run", "show", "not-an-id"],
    ] {
        offline().fails(2, args);
    }
}
