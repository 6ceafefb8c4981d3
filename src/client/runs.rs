//! `chrono-flow run …`

use std::io::Read;

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::cli::client::{RunCommand, StreamName};
use crate::model::UnixMs;

use super::api::{Answer, Api, Ask};
use super::failure::Failure;
use super::jobs::{Found, is_digits, show_list};
use super::screen::{Screen, text};
use super::{Outcome, follow, times};

/// Runs among which the beginning of an id is looked for: the newest ones.
const RECENT_RUNS_MAX: u64 = 10_000;
/// Bytes that are passed on at once.
const CHUNK_BYTES: usize = 64 * 1024;

pub fn run(api: &Api, screen: &Screen, command: RunCommand) -> Outcome {
    match command {
        RunCommand::List { job, states, since, until, count } => {
            let mut query = Vec::new();
            if !states.is_empty() {
                query.push(("state", states.join(",")));
            }
            for (name, typed) in [("since", since), ("until", until)] {
                if let Some(typed) = typed {
                    query.push((name, times::instant(&typed, screen.now)?.to_string()));
                }
            }
            list(api, screen, job.as_deref(), &query, count)
        }
        RunCommand::Show { run } => show(screen, &api.get(format!("/runs/{}", look_up(api, &run)?))?),
        RunCommand::Logs { run, follow: true, stream } => follow::logs(api, screen, &look_up(api, &run)?, stream),
        RunCommand::Logs { run, follow: false, stream } => logs(api, screen, &look_up(api, &run)?, stream),
        RunCommand::Cancel { run } => {
            let path = format!("/runs/{}/cancel", look_up(api, &run)?);
            // Twice cancelled is cancelled.
            let answer = api.call(&Ask::send("POST", path, None).repeatable())?;
            if screen.is_json() {
                screen.json(&answer.text)?;
                return Ok(0);
            }
            let run = answer.json()?;
            let is_final = is_final(&run);
            let word = if is_final { "" } else { "; it was told to end" };
            screen.line(format_args!("run {}: {}{word}", text(&run["id"]), ending(&run)))?;
            Ok(0)
        }
    }
}

fn list(api: &Api, screen: &Screen, job: Option<&str>, query: &[(&str, String)], count: u64) -> Outcome {
    let heading = ["ID", "JOB", "STATE", "SCHEDULED", "#TOOK", "ENDING"];
    let row = |run: &Value| {
        let why = ending(run);
        let why = why.split_once(": ").map_or("", |(_, why)| why).to_owned();
        let took = took(run).map(times::span).unwrap_or_default();
        vec![text(&run["id"]), text(&run["job_name"]), text(&run["state"]), screen.when(&run["scheduled_at"]), took, why]
    };
    let list = |path: &str| show_list(api, screen, path, query, count, &heading, row);
    match job {
        None => list("/runs"),
        // The history of a job that was deleted is still found by its id.
        Some(id) if is_digits(id) => match api.get(format!("/jobs/{id}/runs?limit=1")) {
            Err(failure) if failure.is("no_such_job") => list(&format!("/jobs/{}/runs", Found::look_up(api, id)?.id)),
            outcome => outcome.and_then(|_| list(&format!("/jobs/{id}/runs"))),
        },
        Some(name) => list(&format!("/jobs/{}/runs", Found::look_up(api, name)?.id)),
    }
}

/// The id of a run that was named by it or by its beginning.
fn look_up(api: &Api, typed: &str) -> Result<String, Failure> {
    if let Ok(id) = Uuid::parse_str(typed) {
        return Ok(id.to_string());
    }
    let beginning = typed.to_lowercase();
    if beginning.is_empty() || !beginning.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
        return Err(Failure::Usage(format!("`{typed}` is no run's id, nor the beginning of one")));
    }
    let mut found: Vec<String> = Vec::new();
    api.pages("/runs", &[], RECENT_RUNS_MAX, |page| {
        let runs: Vec<Value> = serde_json::from_str(&format!("[{page}]"))
            .map_err(|error| Failure::Failed(format!("the server's answer is no JSON: {error}")))?;
        found.extend(runs.iter().map(|run| text(&run["id"])).filter(|id| id.starts_with(&beginning)));
        Ok(())
    })?;
    match found.as_slice() {
        [id] => Ok(id.clone()),
        [] => Err(Failure::Failed(format!("no recent run's id begins with `{typed}`"))),
        several => Err(Failure::Failed(format!("the ids of {} recent runs begin with `{typed}`; type more of it", several.len()))),
    }
}

fn show(screen: &Screen, answer: &Answer) -> Outcome {
    if screen.is_json() {
        screen.json(&answer.text)?;
        return Ok(0);
    }
    const FIRST: &[&str] = &["id", "job_id", "job_name", "state", "reason", "exit_code", "signal", "error", "trigger", "scheduled_at"];
    let run = answer.json()?;
    let others = run.as_object().into_iter().flat_map(Map::keys).map(String::as_str);
    let names = FIRST.iter().copied().chain(others.filter(|name| !FIRST.contains(name)));
    let shown = |name: &str| if name.ends_with("_at") || name == "skipped_from" { screen.when(&run[name]) } else { text(&run[name]) };
    let mut pairs: Vec<(&str, String)> = names.map(|name| (name, shown(name))).collect();
    pairs.push(("took", took(&run).map(times::span).unwrap_or_default()));
    screen.details(&pairs)?;
    Ok(0)
}

/// What there is of a run's output, byte for byte.
fn logs(api: &Api, screen: &Screen, id: &str, stream: Option<StreamName>) -> Outcome {
    let response = api.open(&Ask::get(format!("/runs/{id}/output{}", stream.map_or("", |stream| query(stream, '?')))))?;
    let mut reader = response.into_body().into_reader();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let bytes = reader.read(&mut chunk).map_err(|error| Failure::Unreachable(format!("the output broke off: {error}")))?;
        if bytes == 0 {
            return Ok(0);
        }
        screen.write(&chunk[..bytes])?;
    }
}

/// The query's part that asks for one stream.
pub fn query(stream: StreamName, separator: char) -> &'static str {
    match (stream, separator) {
        (StreamName::Stdout, '?') => "?stream=stdout",
        (StreamName::Stderr, '?') => "?stream=stderr",
        (StreamName::Stdout, _) => "&stream=stdout",
        (StreamName::Stderr, _) => "&stream=stderr",
    }
}

/// Whether a run has ended, by its state's name; a newer server may have states that are not known here.
pub fn is_final(run: &Value) -> bool {
    let state = crate::model::RunState::from_name(run["state"].as_str().unwrap_or_default());
    state.map_or(!run["finished_at"].is_null(), crate::model::RunState::is_final)
}

/// A run's state, and why it is so: `failed: exit code 3`.
pub fn ending(run: &Value) -> String {
    let named = |name: &str, word: &str| (!run[name].is_null()).then(|| format!("{word}{}", text(&run[name])));
    let exit_code = named("exit_code", "exit code ").filter(|_| run["exit_code"] != 0);
    let why: Vec<String> =
        [exit_code, named("signal", "signal "), named("reason", ""), named("error", ""), named("skipped_count", "fires: ")]
            .into_iter()
            .flatten()
            .collect();
    let state = text(&run["state"]);
    if why.is_empty() { state } else { format!("{state}: {}", why.join(", ")) }
}

/// Milliseconds from a run's start to its end.
pub fn took(run: &Value) -> Option<i64> {
    let instant = |name: &str| run[name].as_str()?.parse::<UnixMs>().ok();
    Some(instant("finished_at")?.since(instant("started_at")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_runs_ending_says_why() {
        for (run, says) in [
            (json!({"state": "succeeded", "exit_code": 0}), "succeeded"),
            (json!({"state": "failed", "exit_code": 3}), "failed: exit code 3"),
            (json!({"state": "failed", "signal": 9, "error": "out of memory"}), "failed: signal 9, out of memory"),
            (json!({"state": "skipped", "reason": "missed", "skipped_count": 4}), "skipped: missed, fires: 4"),
        ] {
            assert_eq!(ending(&run), says);
        }
        assert_eq!(took(&json!({"started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01.5Z"})), Some(1_500));
        assert!(is_final(&json!({"state": "lost"})) && !is_final(&json!({"state": "unreachable"})));
        assert!(is_final(&json!({"state": "newer", "finished_at": "x"})) && !is_final(&json!({"state": "newer"})));
    }
}
