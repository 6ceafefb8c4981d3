//! What a newcomer does first, and what a command gets to see.

use serde_json::json;

use crate::api::Row;
use crate::server::{Place, eventually};
use crate::witness::Witness;

#[test]
fn the_readmes_first_example_works_to_the_letter() {
    let place = Place::new();
    let server = place.start();
    let api = server.api();
    let body = r#"{"name": "Date Printer", "schedule": "*/10 * * * * *", "command": "echo \"The current date is $(date)\""}"#;
    let answer = api.call("POST", "/jobs", &[], Some(body));
    assert_eq!(answer.header("location"), Some("/jobs/1"));
    let job = answer.expect(201);
    assert_eq!((&job["id"], &job["name"], &job["schedule"]), (&json!(1), &json!("Date Printer"), &json!("*/10 * * * * *")));
    assert_eq!((&job["kind"], &job["time_zone"], &job["is_enabled"]), (&json!("shell"), &json!("UTC"), &json!(true)));

    let line = server.wait_log(": The current date is ");
    assert!(line.contains("Date Printer"), "{line}");
    let ended = eventually("a run ends", || api.runs_of(&job).into_iter().find(|row| row.state == "succeeded"));
    assert_eq!((ended.at_ms % 10_000, ended.exit_code, ended.job), (0, Some(0), 1));
    let output = api.output(&ended.id);
    assert!(output.starts_with("The current date is ") && output.ends_with('\n') && output.lines().count() == 1, "{output:?}");
    assert!(line.ends_with(output.trim_end()), "{line:?} {output:?}");
    let list = api.get("/jobs").expect(200);
    assert_eq!((list.as_array().unwrap().len(), &list[0]["name"]), (1, &json!("Date Printer")));
    let last_run = &list[0]["last_run"];
    assert!(last_run["id"] == json!(ended.id) && last_run["state"] == "succeeded", "{last_run}");
}

#[test]
fn a_command_sees_its_job_and_nothing_of_the_servers_environment_and_values_stay_out_of_the_log() {
    let place = Place::new();
    let witness = Witness::new(&place);
    let server = place.start_with(&[], &[("SECRET", "of-the-server"), ("RUST_LOG", "trace")]);
    let api = server.api();
    let job = api.create(json!({
        "name": "It's \"quoted\"", "schedule": "0 0 1 1 *", "command": witness.command("env; w end"),
        "env": {"TOKEN": "s3cr3t-of-the-job", "LANG": "de_DE.UTF-8"},
    }));
    // What a command prints goes into the log; this one prints nothing.
    let quiet = api.create(json!({
        "name": "quiet", "schedule": "* * * * * *", "command": "test \"$HIDDEN\" = never-to-be-seen", "env": {"HIDDEN": "never-to-be-seen"},
    }));
    let run = Row::read(&api.run_now(&job, None));
    let ended = api.wait_ended(&run.id);
    let output = api.output(&run.id);
    let get = |name: &str| output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    assert_eq!(get("SECRET"), None);
    assert!(!output.contains("of-the-server"), "{output}");
    assert_eq!((get("TOKEN"), get("LANG")), (Some("s3cr3t-of-the-job"), Some("de_DE.UTF-8")));
    assert_eq!((get("CHRONO_FLOW_JOB_ID"), get("CHRONO_FLOW_JOB_NAME")), (Some("1"), Some("It's \"quoted\"")));
    assert_eq!((get("CHRONO_FLOW_RUN_ID"), get("CHRONO_FLOW_ATTEMPT")), (Some(run.id.as_str()), Some("1")));
    assert_eq!(crate::api::parse_ms(get("CHRONO_FLOW_SCHEDULED_AT").unwrap()), ended.at_ms);
    for base in ["PATH", "HOME", "USER"] {
        assert!(get(base).is_some(), "{base}\n{output}");
    }
    let known = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TOKEN", "PWD", "OLDPWD", "SHLVL", "_"];
    for line in output.lines() {
        let name = line.split('=').next().unwrap();
        assert!(known.contains(&name) || name.starts_with("CHRONO_FLOW_"), "{line} leaked");
    }

    let row = eventually("the quiet one ends", || api.runs_of(&quiet).into_iter().find(Row::is_final));
    assert_eq!(row.state, "succeeded");
    // Its command names the value too; the log shows neither, at any level.
    let log = server.log();
    assert!(log.iter().any(|line| line.contains("quiet")), "the log says something");
    let leak = log.iter().find(|line| line.contains("never-to-be-seen"));
    assert_eq!(leak, None, "a value of an environment is in the log");
}
