//! A job's fields as flags, files and lists: the JSON that they come to.

use std::fs;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::cli::client::JobFields;

use super::failure::Failure;

/// Bytes of a job's file: as many as the API takes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What users write of a job, in the order in which it is shown.
pub const WRITTEN: &[&str] = &[
    "name",
    "schedule",
    "time_zone",
    "kind",
    "command",
    "is_enabled",
    "description",
    "labels",
    "env",
    "working_dir",
    "user",
    "timeout_s",
    "kill_grace_s",
    "retry",
    "overlap",
    "catch_up",
    "catch_up_window_s",
    "catch_up_max",
    "start_deadline_s",
    "worker_selector",
    "on_worker_lost",
    "lost_after_s",
    "starts_at",
    "ends_at",
    "jitter_s",
    "max_output_bytes",
];

/// What the server says of a job beside what was written.
pub const GIVEN: &[&str] = &["id", "created_at", "updated_at", "revision", "next_fire_at", "last_run", "applied", "pending_revocations"];

/// The fields that flags name; an empty object if there are none.
pub fn of_flags(flags: &JobFields) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        let is_empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
        if !is_empty {
            fields.insert(name.to_owned(), value);
        }
    };
    let pairs = |pairs: &[(String, String)]| Value::Object(pairs.iter().map(|(name, value)| (name.clone(), json!(value))).collect());
    put("schedule", json!(flags.schedule));
    put("command", json!(flags.command));
    put("time_zone", json!(flags.time_zone));
    put("kind", json!(flags.kind));
    put("is_enabled", if flags.disabled || flags.enabled { json!(flags.enabled) } else { Value::Null });
    put("description", json!(flags.description));
    put("labels", pairs(&flags.labels));
    put("env", pairs(&flags.env));
    put("working_dir", json!(flags.working_dir));
    put("user", json!(flags.user));
    put("timeout_s", json!(flags.timeout_s));
    put("kill_grace_s", json!(flags.kill_grace_s));
    let retry =
        [("max_attempts", flags.retry_max_attempts), ("backoff_s", flags.retry_backoff_s), ("max_backoff_s", flags.retry_max_backoff_s)];
    put("retry", Value::Object(retry.iter().filter_map(|(name, value)| Some(((*name).to_owned(), json!((*value)?)))).collect()));
    put("overlap", json!(flags.overlap));
    put("catch_up", json!(flags.catch_up));
    put("catch_up_window_s", json!(flags.catch_up_window_s));
    put("catch_up_max", json!(flags.catch_up_max));
    put("start_deadline_s", json!(flags.start_deadline_s));
    put("worker_selector", pairs(&flags.worker_selector));
    put("on_worker_lost", json!(flags.on_worker_lost));
    put("lost_after_s", json!(flags.lost_after_s));
    put("starts_at", json!(flags.starts_at));
    put("ends_at", json!(flags.ends_at));
    put("jitter_s", json!(flags.jitter_s));
    put("max_output_bytes", json!(flags.max_output_bytes));
    fields
}

/// Makes a field (`retry`, or `env.TOKEN`) null, which is its default in a merge patch.
pub fn unset(fields: &mut Map<String, Value>, path: &str) -> Result<(), Failure> {
    match path.split_once('.') {
        None => drop(fields.insert(path.to_owned(), Value::Null)),
        Some((field, name)) => match fields.entry(field).or_insert_with(|| Value::Object(Map::new())) {
            Value::Object(inner) => drop(inner.insert(name.to_owned(), Value::Null)),
            _ => return Err(Failure::Usage(format!("--unset {path}: `{field}` is no object"))),
        },
    }
    Ok(())
}

/// Lays `change` over `fields`: objects merge, everything else takes the place of what was there.
pub fn overlay(fields: &mut Map<String, Value>, change: Map<String, Value>) {
    for (name, value) in change {
        match (fields.get_mut(&name), value) {
            (Some(Value::Object(inner)), Value::Object(change)) => overlay(inner, change),
            (_, value) => drop(fields.insert(name, value)),
        }
    }
}

/// Reads a file (`-`: standard input) that has one JSON object.
pub fn read_file(path: &Path) -> Result<Map<String, Value>, Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("{} can't be read: {error}", path.display()));
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(failed)?;
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::Failed(format!("{} has more than {FILE_BYTES_MAX} bytes", path.display())));
    }
    parse(&bytes).map_err(|why| Failure::Failed(format!("{}: {why}", path.display())))
}

/// Reads one JSON object.
pub fn parse(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("it must be one JSON object".to_owned()),
        Err(error) => Err(format!("it is no JSON: {error}")),
    }
}

/// The document for an editor: what users write, in the order in which it is shown.
pub fn document(job: &Value) -> String {
    let mut names: Vec<&str> = WRITTEN.iter().copied().filter(|name| job.get(*name).is_some()).collect();
    let is_other = |name: &&str| !WRITTEN.contains(name) && !GIVEN.contains(name);
    names.extend(job.as_object().into_iter().flat_map(Map::keys).map(String::as_str).filter(is_other));
    let lines: Vec<String> = names.iter().map(|name| format!("  {}: {}", json!(name), indented(&job[*name]))).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

fn indented(value: &Value) -> String {
    format!("{value:#}").replace('\n', "\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_their_fields_and_nothing_else() {
        assert_eq!(of_flags(&JobFields::default()), Map::new());
        let flags = JobFields {
            disabled: true,
            env: vec![("A".into(), "1=2".into())],
            retry_max_attempts: Some(3),
            timeout_s: Some(9),
            ..JobFields::default()
        };
        let fields = json!({"is_enabled": false, "env": {"A": "1=2"}, "retry": {"max_attempts": 3}, "timeout_s": 9});
        assert_eq!(Value::Object(of_flags(&flags)), fields);
        assert_eq!(of_flags(&JobFields { enabled: true, ..JobFields::default() })["is_enabled"], true);
    }

    #[test]
    fn a_document_shows_what_users_write_and_reads_back() {
        let job = json!({"id": 1, "revision": 2, "schedule": "@daily", "name": "a", "env": {"K": "v"}, "next_fire_at": null, "newer": [1]});
        let text = document(&job);
        assert!(text.starts_with("{\n  \"name\": \"a\",\n  \"schedule\": \"@daily\",\n"), "{text}");
        let fields = json!({"name": "a", "schedule": "@daily", "env": {"K": "v"}, "newer": [1]});
        assert_eq!(Value::Object(parse(text.as_bytes()).unwrap()), fields);
    }

    #[test]
    fn what_is_unset_is_null() {
        let mut fields = Map::new();
        unset(&mut fields, "retry").unwrap();
        unset(&mut fields, "env.A.B").unwrap();
        assert_eq!(Value::Object(fields.clone()), json!({"retry": null, "env": {"A.B": null}}));
        assert!(unset(&mut fields, "retry.backoff_s").is_err());
    }
}
