//! A job as JSON: read from clients by the table of fields, and written for them with what the server knows besides.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::model::{Job, JobId, JobSpec, Revision, Run, RunId, RunState, UnixMs};
use crate::schedule::{self, Schedule};

use super::job_fields::{FIELDS, Given, Rule, not_supported, unknown_field};
use super::problem::Problem;

/// Reads a whole job: what is not given takes its default. `current` is the job that it replaces, whose read-only fields may come back
/// unchanged. `now` stands for `created_at` of a job that does not exist yet.
pub fn parse(object: &Map<String, Value>, current: Option<&Job>, now: UnixMs) -> Result<JobSpec, Problem> {
    if let Some(unknown) = object.keys().find(|key| !FIELDS.iter().any(|field| field.name == key.as_str())) {
        return Err(unknown_field(unknown));
    }
    let mut spec = JobSpec::new("", "", "");
    for field in FIELDS {
        let Some(value) = object.get(field.name) else { continue };
        match &field.rule {
            Rule::Spec(read) => read(&mut spec, Given { field: field.name, value })?,
            Rule::NotBuilt => return Err(not_supported(field.name, &format!("the field `{}`", field.name))),
            Rule::Fixed | Rule::Moving => check_read_only(field.name, &field.rule, value, current)?,
        }
    }
    for needed in ["name", "schedule", "command"] {
        if !object.contains_key(needed) {
            return Err(Problem::unprocessable("missing_field", format!("the field `{needed}` is missing")).field(needed));
        }
    }
    check_span(&spec)?;
    let zone = object.contains_key("time_zone").then_some(&*spec.time_zone);
    let anchor = spec.starts_at.unwrap_or(current.map_or(now, |job| job.created_at));
    let schedule = Schedule::parse(&spec.schedule, zone, schedule::seed(&spec.name), anchor)?;
    spec.time_zone = schedule.zone_name().into();
    Ok(spec)
}

/// Applies a merge patch (RFC 7396) to a job and reads the result like a whole one.
pub fn parse_patch(patch: Map<String, Value>, current: &Job, now: UnixMs) -> Result<JobSpec, Problem> {
    let mut object = to_object(&current.spec)?;
    // A new expression that names its own time zone decides it, unless the patch does.
    let new_schedule = patch.get("schedule").and_then(Value::as_str).map(str::trim_start);
    if !patch.contains_key("time_zone") && new_schedule.is_some_and(|text| text.starts_with("CRON_TZ=") || text.starts_with("TZ=")) {
        object.remove("time_zone");
    }
    super::json::merge(&mut object, patch);
    parse(&object, Some(current), now)
}

fn to_object(spec: &JobSpec) -> Result<Map<String, Value>, Problem> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::internal("a job is no JSON object")),
        Err(error) => Err(Problem::internal(error)),
    }
}

fn check_read_only(name: &str, rule: &Rule, value: &Value, current: Option<&Job>) -> Result<(), Problem> {
    let refuse = |detail: String| Err(Problem::unprocessable("read_only", detail).field(name));
    let Some(job) = current else { return refuse(format!("the field `{name}` is given by the server")) };
    let is_right = match (rule, name) {
        (Rule::Moving, "next_fire_at") => value.is_null() || value.is_string(),
        (Rule::Moving, "last_run") => value.is_null() || value.is_object(),
        (Rule::Moving, "applied") => value.is_boolean(),
        (Rule::Moving, _) => value.is_u64(),
        (_, "id") => *value == json!(job.id),
        (_, "revision") => *value == json!(job.revision),
        (_, "created_at") => is_instant(value, job.created_at),
        (_, _) => is_instant(value, job.updated_at),
    };
    if is_right { Ok(()) } else { refuse(format!("the field `{name}` is given by the server and may not be changed")) }
}

fn is_instant(value: &Value, expected: UnixMs) -> bool {
    value.as_str().and_then(|text| text.parse::<UnixMs>().ok()) == Some(expected)
}

fn check_span(spec: &JobSpec) -> Result<(), Problem> {
    match (spec.starts_at, spec.ends_at) {
        (Some(start), Some(end)) if start >= end => {
            Err(Problem::invalid_value("ends_at", &format!("`{end}`"), &format!("an instant after `starts_at`, which is `{start}`")))
        }
        _ => Ok(()),
    }
}

/// A job as clients read it. `JobSpec`'s field names are the JSON names.
#[derive(Serialize)]
pub struct JobView<'a> {
    id: JobId,
    #[serde(flatten)]
    spec: &'a JobSpec,
    created_at: UnixMs,
    updated_at: UnixMs,
    revision: Revision,
    next_fire_at: Option<UnixMs>,
    last_run: Option<LastRun>,
    /// Stands only in the answer to a write that the ledger does not have yet (PROTOCOL A4).
    #[serde(skip_serializing_if = "is_true")]
    pub applied: bool,
    /// Stands only where runs of an older revision may still start.
    #[serde(skip_serializing_if = "is_zero")]
    pub pending_revocations: u32,
}

fn is_true(value: &bool) -> bool {
    *value
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// The newest launch of a job, in short.
#[derive(Serialize)]
pub struct LastRun {
    id: RunId,
    state: RunState,
    scheduled_at: UnixMs,
    started_at: Option<UnixMs>,
    finished_at: Option<UnixMs>,
    exit_code: Option<i32>,
}

impl From<&Run> for LastRun {
    fn from(run: &Run) -> LastRun {
        LastRun {
            id: run.id,
            state: run.state,
            scheduled_at: run.scheduled_at,
            started_at: run.started_at,
            finished_at: run.finished_at,
            exit_code: run.exit_code,
        }
    }
}

impl JobView<'_> {
    pub fn new<'a>(job: &'a Job, last_run: Option<&Run>, now: UnixMs) -> JobView<'a> {
        JobView {
            id: job.id,
            spec: &job.spec,
            created_at: job.created_at,
            updated_at: job.updated_at,
            revision: job.revision,
            next_fire_at: next_fires(job, now, 1).first().copied(),
            last_run: last_run.map(LastRun::from),
            applied: true,
            pending_revocations: 0,
        }
    }
}

/// The job's next fires after `now`, at most `count`. None of a paused job, nor outside of `starts_at` and `ends_at`.
pub fn next_fires(job: &Job, now: UnixMs, count: usize) -> Vec<UnixMs> {
    let spec = &job.spec;
    // What the store holds was parsed before; a text that an older version took and this one does not has no fires.
    let parsed = Schedule::parse(&spec.schedule, Some(&spec.time_zone), schedule::seed(&spec.name), job.anchor());
    let Some(schedule) = parsed.ok().filter(|_| spec.is_enabled) else { return Vec::new() };
    let before_start = spec.starts_at.map_or(UnixMs::MIN, |start| start - 1);
    let after = now.max(job.effective_from).max(before_start);
    let fires = std::iter::successors(schedule.next_after(after), |fire| schedule.next_after(*fire));
    fires.take_while(|fire| spec.ends_at.is_none_or(|end| *fire < end)).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CatchUp, Overlap, Retry, limits};

    const NOW: UnixMs = UnixMs::from_secs(1_790_000_000);

    fn read(extra: Value) -> Result<JobSpec, Problem> {
        parse(&with(extra), None, NOW)
    }

    fn with(extra: Value) -> Map<String, Value> {
        let mut object = json!({"name": "n", "schedule": "* * * * *", "command": "true"}).as_object().unwrap().clone();
        object.extend(extra.as_object().unwrap().clone());
        object
    }

    fn refused(extra: Value) -> (&'static str, String) {
        let problem = read(extra.clone()).expect_err(&extra.to_string());
        assert_eq!(problem.status.as_u16(), 422, "{extra}");
        (problem.code, problem.member("field").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    fn job(spec: JobSpec) -> Job {
        Job { id: JobId(7), revision: 3, change_seq: 9, created_at: NOW, updated_at: NOW + 5, effective_from: NOW, spec }
    }

    #[test]
    fn name_schedule_and_command_are_enough_and_the_rest_has_its_defaults() {
        assert_eq!(read(json!({})), Ok(JobSpec::new("n", "* * * * *", "true")));
        for needed in ["name", "schedule", "command"] {
            let mut object = with(json!({}));
            object.remove(needed);
            let problem = parse(&object, None, NOW).unwrap_err();
            assert_eq!((problem.code, problem.member("field")), ("missing_field", Some(&json!(needed))));
        }
    }

    #[test]
    fn every_field_is_read_into_its_place() {
        let given = json!({
            "time_zone": "Europe/Berlin", "kind": "shell", "is_enabled": false, "description": "d", "labels": {"team": "a", "x": ""},
            "env": {"A": "1", "EMPTY": ""}, "working_dir": "/tmp", "timeout_s": 60, "kill_grace_s": 0,
            "retry": {"max_attempts": 3, "backoff_s": 1, "max_backoff_s": 10}, "overlap": "queue_one", "catch_up": "all",
            "catch_up_window_s": 0, "catch_up_max": 10_000, "start_deadline_s": 1,
            "worker_selector": {"zone": "eu"}, "on_worker_lost": "retry", "lost_after_s": 60, "starts_at": "2027-01-01T00:00:00+01:00",
            "ends_at": "2028-01-01T00:00:00Z", "max_output_bytes": 67_108_864,
        });
        let spec = read(given.clone()).unwrap();
        assert_eq!((spec.overlap, spec.catch_up, spec.timeout_s), (Overlap::QueueOne, CatchUp::All, Some(60)));
        assert_eq!(spec.retry, Retry { max_attempts: 3, backoff_s: 1, max_backoff_s: 10 });
        let mut written = to_object(&spec).unwrap();
        assert_eq!(written.remove("starts_at"), Some(json!("2026-12-31T23:00:00Z")));
        for (name, value) in given.as_object().unwrap() {
            assert!(name == "starts_at" || written[name] == *value, "{name}");
        }
    }

    #[test]
    fn the_table_knows_every_field_of_a_job_and_nothing_twice() {
        let view = serde_json::to_value(JobView {
            applied: false,
            pending_revocations: 1,
            ..JobView::new(&job(JobSpec::new("n", "@daily", "c")), None, NOW)
        });
        let written = view.unwrap();
        for name in written.as_object().unwrap().keys() {
            assert_eq!(FIELDS.iter().filter(|field| field.name == name).count(), 1, "{name}");
        }
        for field in FIELDS {
            assert_eq!(written.get(field.name).is_none(), matches!(field.rule, Rule::NotBuilt), "{}", field.name);
        }
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        assert_eq!(refused(json!({"nmae": 1})), ("unknown_field", "nmae".into()));
        assert_eq!(refused(json!({"retry": {"attempts": 1}})), ("unknown_field", "retry.attempts".into()));
    }

    #[test]
    fn a_field_that_is_not_built_yet_is_refused_by_name() {
        for name in ["user", "jitter_s"] {
            assert_eq!(refused(json!({name: null})), ("not_supported", name.into()));
        }
        assert_eq!(refused(json!({"overlap": "queue_all"})), ("not_supported", "overlap".into()));
    }

    #[test]
    fn what_the_server_gives_is_refused_in_a_new_job() {
        for name in ["id", "created_at", "updated_at", "revision", "next_fire_at", "last_run", "applied"] {
            assert_eq!(refused(json!({name: null})), ("read_only", name.into()));
        }
    }

    #[test]
    fn wrong_types_and_values_beyond_limits_are_refused_by_field() {
        let long = |bytes: usize| "x".repeat(bytes);
        let many: Map<String, Value> = (0..=limits::LABELS_MAX).map(|n| (format!("l{n}"), json!(""))).collect();
        let cases = [
            ("name", json!(1)),
            ("worker_selector", json!("zone=eu")),
            ("worker_selector", json!(many)),
            ("on_worker_lost", json!("give_up")),
            ("lost_after_s", json!(0)),
            ("lost_after_s", json!(limits::LOST_AFTER_S_MAX + 1)),
            ("name", json!(null)),
            ("name", json!("")),
            ("name", json!("  ")),
            ("name", json!(long(256))),
            ("name", json!("a\nb")),
            ("name", json!("a\u{0}b")),
            ("schedule", json!(["* * * * *"])),
            ("schedule", json!("")),
            ("schedule", json!(long(1025))),
            ("schedule", json!("* * * * *\u{0}")),
            ("time_zone", json!(1)),
            ("time_zone", json!(null)),
            ("time_zone", json!("")),
            ("kind", json!("http")),
            ("kind", json!(null)),
            ("command", json!({})),
            ("command", json!("")),
            ("command", json!(" \n")),
            ("command", json!(long(256 * 1024 + 1))),
            ("command", json!("a\u{0}")),
            ("is_enabled", json!("true")),
            ("is_enabled", json!(1)),
            ("is_enabled", json!(null)),
            ("description", json!(1)),
            ("description", json!(long(16 * 1024 + 1))),
            ("description", json!("\u{0}")),
            ("labels", json!([])),
            ("labels", json!(null)),
            ("labels", Value::Object(many)),
            ("labels.", json!({"": "x"})),
            ("labels.a=b", json!({"a=b": "x"})),
            ("labels.a", json!({"a": 1})),
            ("labels.a", json!({"a": long(256)})),
            ("labels.a", json!({"a": "\u{0}"})),
            ("env", json!("A=1")),
            ("env", json!({"A": long(64 * 1024)})),
            ("env.", json!({"": "x"})),
            ("env.A=B", json!({"A=B": "x"})),
            ("env.A", json!({"A": 1})),
            ("env.A", json!({"A": "\u{0}"})),
            ("env.A\u{0}", json!({"A\u{0}": ""})),
            ("env.CHRONO_FLOW_RUN_ID", json!({"CHRONO_FLOW_RUN_ID": "x"})),
            ("working_dir", json!("tmp")),
            ("working_dir", json!("")),
            ("working_dir", json!("/a\u{0}")),
            ("working_dir", json!(format!("/{}", long(4095)))),
            ("timeout_s", json!(0)),
            ("timeout_s", json!(-1)),
            ("timeout_s", json!(1.5)),
            ("timeout_s", json!("60")),
            ("timeout_s", json!(4_294_967_297_u64)),
            ("kill_grace_s", json!(3_601)),
            ("kill_grace_s", json!(null)),
            ("retry", json!(3)),
            ("retry", json!(null)),
            ("retry.max_attempts", json!({"max_attempts": 0})),
            ("retry.max_attempts", json!({"max_attempts": 101})),
            ("retry.backoff_s", json!({"backoff_s": 86_401})),
            ("retry.max_backoff_s", json!({"backoff_s": 9, "max_backoff_s": 8})),
            ("overlap", json!("never")),
            ("overlap", json!(null)),
            ("catch_up", json!("ALL")),
            ("catch_up_window_s", json!(31 * 86_400 + 1)),
            ("catch_up_max", json!(0)),
            ("catch_up_max", json!(10_001)),
            ("start_deadline_s", json!(0)),
            ("start_deadline_s", json!(86_401)),
            ("starts_at", json!("2026-01-01")),
            ("starts_at", json!(1_790_000_000)),
            ("ends_at", json!("soon")),
            ("max_output_bytes", json!(64 * 1024 * 1024 + 1)),
        ];
        for (path, value) in cases {
            let name = path.split('.').next().unwrap();
            assert_eq!(refused(json!({name: value.clone()})), ("invalid_value", path.to_owned()), "{value:.80}");
        }
    }

    #[test]
    fn a_backoff_beyond_the_default_longest_wait_raises_it() {
        assert_eq!(read(json!({"retry": {"backoff_s": 7_200}})).unwrap().retry.max_backoff_s, 7_200);
    }

    #[test]
    fn an_error_says_what_was_found_and_what_is_allowed_but_never_a_secret() {
        let detail = |extra: Value| read(extra).unwrap_err().detail;
        assert_eq!(detail(json!({"timeout_s": 0})), "`timeout_s`: found `0`; allowed: a whole number from 1 to 31622400");
        assert_eq!(detail(json!({"overlap": "never"})), "`overlap`: found `never`; allowed: `allow`, `skip`, `queue_one`, `replace`");
        for env in [json!({"PASSWORD": 31_337}), json!({"PASSWORD": "31337\u{0}"}), json!("31337"), json!({"PASSWORD": ["31337"]})] {
            assert!(!detail(json!({ "env": env })).contains("31337"));
        }
    }

    #[test]
    fn a_job_that_ends_before_it_starts_is_refused() {
        let span = |start: &str, end: &str| json!({"starts_at": start, "ends_at": end});
        assert_eq!(refused(span("2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z")), ("invalid_value", "ends_at".into()));
        assert!(read(span("2027-01-01T00:00:00Z", "2027-01-01T00:00:01Z")).is_ok());
    }

    #[test]
    fn a_schedule_error_points_at_its_column() {
        let problem = read(json!({"schedule": "*/10 * 32 * *"})).unwrap_err();
        assert_eq!((problem.code, problem.member("field")), ("invalid_schedule", Some(&json!("schedule"))));
        assert_eq!((problem.member("column"), problem.member("length")), (Some(&json!(8)), Some(&json!(2))));
        assert_eq!(refused(json!({"time_zone": "Mars/Olympus"})), ("invalid_schedule", "time_zone".into()));
    }

    #[test]
    fn the_time_zone_comes_from_the_field_or_the_prefix_or_is_utc() {
        let zone = |extra: Value| read(extra).map(|spec| spec.time_zone.to_string()).map_err(|problem| problem.code);
        assert_eq!(zone(json!({})), Ok("UTC".into()));
        assert_eq!(zone(json!({"time_zone": "Europe/Berlin"})), Ok("Europe/Berlin".into()));
        assert_eq!(zone(json!({"schedule": "CRON_TZ=Asia/Tokyo 0 0 * * *"})), Ok("Asia/Tokyo".into()));
        assert_eq!(zone(json!({"schedule": "CRON_TZ=Asia/Tokyo 0 0 * * *", "time_zone": "UTC"})), Err("invalid_schedule"));
    }

    #[test]
    fn read_only_fields_may_come_back_as_they_are_and_not_otherwise() {
        let current = job(JobSpec::new("n", "* * * * *", "true"));
        let view = serde_json::to_value(JobView { applied: false, ..JobView::new(&current, None, NOW) }).unwrap();
        assert_eq!(parse(view.as_object().unwrap(), Some(&current), NOW), Ok(current.spec.clone()), "GET then PUT changes nothing");
        let created_at = "2026-09-21T16:13:20+02:00";
        let moved = json!({"next_fire_at": created_at, "last_run": {"id": "x"}, "applied": true, "created_at": created_at});
        assert_eq!(parse(&with(moved), Some(&current), NOW), Ok(current.spec.clone()));
        for changed in [
            json!({"id": 8}),
            json!({"id": "7"}),
            json!({"revision": 2}),
            json!({"created_at": "2026-01-01T00:00:00Z"}),
            json!({"updated_at": null}),
            json!({"last_run": 1}),
            json!({"next_fire_at": 1}),
        ] {
            let problem = parse(&with(changed.clone()), Some(&current), NOW).expect_err(&changed.to_string());
            assert_eq!(
                (problem.code, problem.member("field").unwrap().as_str()),
                ("read_only", changed.as_object().unwrap().keys().next().map(String::as_str))
            );
        }
    }

    #[test]
    fn a_patch_changes_what_it_names_and_null_restores_the_default() {
        let mut spec = JobSpec::new("n", "CRON_TZ=Asia/Tokyo 0 0 * * *", "true");
        (spec.time_zone, spec.timeout_s, spec.is_enabled) = ("Asia/Tokyo".into(), Some(9), false);
        spec.labels = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into();
        let current = job(spec.clone());
        let patched = |patch: Value| parse_patch(patch.as_object().unwrap().clone(), &current, NOW);
        assert_eq!(patched(json!({})), Ok(spec.clone()));
        let changed = patched(json!({"labels": {"a": null, "c": "3"}, "timeout_s": null, "is_enabled": null})).unwrap();
        assert_eq!(changed.labels.into_iter().collect::<Vec<_>>(), [("b".to_owned(), "2".to_owned()), ("c".to_owned(), "3".to_owned())]);
        assert_eq!((changed.timeout_s, changed.is_enabled), (None, true));
        assert_eq!(patched(json!({"schedule": "TZ=Europe/Rome 0 0 * * *"})).unwrap().time_zone, "Europe/Rome".into());
        assert_eq!(patched(json!({"schedule": "0 0 * * *"})).unwrap().time_zone, "Asia/Tokyo".into());
        assert_eq!(patched(json!({"name": null})).unwrap_err().code, "missing_field");
        assert_eq!(patched(json!({"id": 9})).unwrap_err().code, "read_only");
        assert_eq!(patched(json!({"id": 7, "revision": 3})), Ok(spec));
    }

    #[test]
    fn the_next_fire_lies_within_the_jobs_span_and_after_its_revision() {
        let mut spec = JobSpec::new("n", "0 * * * *", "true");
        let hour = UnixMs::from_secs(1_790_002_800);
        let next = |spec: &JobSpec, now| next_fires(&job(spec.clone()), now, 1).first().copied();
        assert_eq!(next(&spec, NOW), Some(hour));
        assert_eq!(next(&spec, UnixMs(0)), Some(hour), "this revision has no fires before its time");
        spec.starts_at = Some(hour.plus_secs(3_600));
        assert_eq!(next(&spec, NOW), spec.starts_at, "the first instant is part of the span");
        spec.ends_at = spec.starts_at.map(|start| start + 1);
        assert_eq!(next_fires(&job(spec.clone()), NOW, 5).len(), 1, "the last is not");
        spec.is_enabled = false;
        assert_eq!(next(&spec, NOW), None);
    }
}
