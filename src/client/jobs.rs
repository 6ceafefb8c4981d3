//! `chrono-flow job …`

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::cli::client::{JobCommand, JobList};

use super::api::{Answer, Api, Ask, encode};
use super::editor::Draft;
use super::failure::Failure;
use super::screen::{Screen, note, text};
use super::{Outcome, follow, job_fields, runs, schedules};

pub fn run(api: &Api, screen: &Screen, command: JobCommand) -> Outcome {
    match command {
        JobCommand::List(filter) => list(api, screen, &filter),
        JobCommand::Show { job } => show(screen, &Found::look_up(api, &job)?.answer),
        JobCommand::Create { name, fields, file } => {
            let mut body = file.map(|file| job_fields::read_file(&file)).transpose()?.unwrap_or_default();
            job_fields::overlay(&mut body, job_fields::of_flags(&fields));
            body.extend(name.map(|name| ("name".to_owned(), json!(name))));
            if body.is_empty() {
                return Err(Failure::Usage("what should be created? Name it, with --schedule and --command, or with -f FILE".to_owned()));
            }
            written(screen, "created", &api.call(&Ask::send("POST", "/jobs", Some(Value::Object(body))))?)
        }
        JobCommand::Edit { job, name, fields, unset, file } => {
            let mut patch = file.as_deref().map(job_fields::read_file).transpose()?.unwrap_or_default();
            let mut flags = job_fields::of_flags(&fields);
            flags.extend(name.map(|name| ("name".to_owned(), json!(name))));
            job_fields::overlay(&mut patch, flags);
            unset.iter().try_for_each(|path| job_fields::unset(&mut patch, path))?;
            let found = Found::look_up(api, &job)?;
            if file.is_none() && patch.is_empty() {
                edit(api, screen, &found)
            } else {
                written(screen, "changed", &found.patch(api, patch)?)
            }
        }
        JobCommand::Delete { jobs, yes } => each(screen, &jobs, |job| delete(api, screen, job, yes)),
        JobCommand::Run { job, idempotency_key, wait } => run_now(api, screen, &job, idempotency_key, wait),
        JobCommand::Pause { jobs } => set_enabled(api, screen, &jobs, false),
        JobCommand::Resume { jobs } => set_enabled(api, screen, &jobs, true),
        JobCommand::Next { job, count } => {
            let found = Found::look_up(api, &job)?;
            let answer = api.get(format!("/jobs/{}/next?count={count}", found.id))?;
            schedules::show_fires(screen, &answer.text, found.job["time_zone"].as_str())
        }
    }
}

/// A job that was looked up by what somebody typed.
pub struct Found {
    pub id: i64,
    pub job: Value,
    answer: Answer,
}

impl Found {
    /// Digits are an id first, and a name if there is no such id; `name:…` is a name.
    pub fn look_up(api: &Api, typed: &str) -> Result<Found, Failure> {
        let by_name = |name: &str| api.get(format!("/jobs/by-name/{}", encode(name)));
        let answer = match typed.strip_prefix("name:") {
            Some("") => Err(Failure::Usage("`name:` needs a name behind it".to_owned())),
            Some(name) => by_name(name),
            None if typed.is_empty() => Err(Failure::Usage("a job's id or name is not empty".to_owned())),
            None if is_digits(typed) => match api.get(format!("/jobs/{typed}")) {
                Err(failure) if failure.is("no_such_job") => by_name(typed),
                outcome => outcome,
            },
            None => by_name(typed),
        }?;
        let job = answer.json()?;
        let id = job["id"].as_i64().ok_or_else(|| Failure::Failed("the server's job has no id".to_owned()))?;
        Ok(Found { id, job, answer })
    }

    /// Changes the job as it was looked up; refused if somebody else has changed it since.
    fn patch(&self, api: &Api, patch: Map<String, Value>) -> Result<Answer, Failure> {
        api.call(&self.guard(Ask::send("PATCH", format!("/jobs/{}", self.id), Some(Value::Object(patch)))))
    }

    fn guard(&self, ask: Ask) -> Ask {
        match self.answer.header("etag") {
            Some(tag) => ask.header("if-match", tag),
            None => ask,
        }
    }

    fn shown(&self) -> String {
        format!("job {} `{}`", self.id, text(&self.job["name"]))
    }
}

pub fn is_digits(typed: &str) -> bool {
    !typed.is_empty() && typed.bytes().all(|byte| byte.is_ascii_digit())
}

fn list(api: &Api, screen: &Screen, filter: &JobList) -> Outcome {
    let mut query: Vec<(&str, String)> = filter.labels.iter().map(|label| ("label", label.clone())).collect();
    query.extend(filter.enabled.map(|enabled| ("enabled", enabled.to_string())));
    query.extend(filter.name.clone().map(|name| ("name", name)));
    let row = |job: &Value| {
        vec![
            text(&job["id"]),
            text(&job["name"]),
            text(&job["schedule"]),
            text(&job["time_zone"]),
            if job["is_enabled"] == true { "yes" } else { "no" }.to_owned(),
            screen.when(&job["next_fire_at"]),
            text(&job["last_run"]["state"]),
        ]
    };
    show_list(api, screen, "/jobs", &query, 0, &["#ID", "NAME", "SCHEDULE", "TIME ZONE", "ENABLED", "NEXT FIRE", "LAST RUN"], row)
}

/// A list over all its pages: one JSON array, or one table.
pub fn show_list(
    api: &Api,
    screen: &Screen,
    path: &str,
    query: &[(&str, String)],
    count: u64,
    heading: &[&str],
    row: impl Fn(&Value) -> Vec<String>,
) -> Outcome {
    let mut rows = Vec::new();
    let mut is_first = true;
    api.pages(path, query, count, |page| {
        if screen.is_json() {
            let before = if is_first {
                "["
            } else if page.is_empty() {
                ""
            } else {
                ","
            };
            is_first = false;
            screen.write(before.as_bytes())?;
            return screen.write(page.as_bytes());
        }
        let jobs: Vec<Value> = serde_json::from_str(&format!("[{page}]"))
            .map_err(|error| Failure::Failed(format!("the server's answer is no JSON: {error}")))?;
        rows.extend(jobs.iter().map(&row));
        Ok(())
    })?;
    if screen.is_json() {
        screen.line("]")?
    } else {
        screen.table(heading, rows)?
    }
    Ok(0)
}

fn show(screen: &Screen, answer: &Answer) -> Outcome {
    if screen.is_json() {
        screen.json(&answer.text)?;
        return Ok(0);
    }
    let job = answer.json()?;
    let others = job.as_object().into_iter().flat_map(Map::keys).map(String::as_str);
    let is_other = |name: &&str| *name != "id" && !job_fields::WRITTEN.contains(name);
    let names = ["id"].into_iter().chain(job_fields::WRITTEN.iter().copied()).chain(others.filter(is_other));
    let shown = |name: &str| match name {
        "next_fire_at" | "created_at" | "updated_at" | "starts_at" | "ends_at" => screen.when(&job[name]),
        "last_run" if job[name].is_object() => {
            let run = &job[name];
            format!("{} {} {}", text(&run["id"]), text(&run["state"]), screen.when(&run["scheduled_at"]))
        }
        "labels" | "env" | "worker_selector" => text(&job[name]).replace(", ", "\n"),
        _ => text(&job[name]),
    };
    let pairs: Vec<(&str, String)> = names.map(|name| (name, shown(name))).collect();
    screen.details(&pairs)?;
    Ok(0)
}

/// Tells what a write has come to.
fn written(screen: &Screen, verb: &str, answer: &Answer) -> Outcome {
    if screen.is_json() {
        screen.json(&answer.text)?;
        return Ok(0);
    }
    let job = answer.json()?;
    let next = match &job["next_fire_at"] {
        Value::Null => "it does not fire".to_owned(),
        at => format!("next fire {}", screen.when(at)),
    };
    screen.line(format_args!("job {} `{}` {verb}; {next}", text(&job["id"]), text(&job["name"])))?;
    if job["applied"] == false {
        note("note: the schedulers have not taken this up yet; they will");
    }
    Ok(0)
}

/// The job's JSON in the user's editor, and what it is afterwards to the server.
fn edit(api: &Api, screen: &Screen, found: &Found) -> Outcome {
    let before = job_fields::document(&found.job);
    let mut draft = Draft::new(&before)?;
    loop {
        let edited = draft.edit()?;
        if job_fields::parse(before.as_bytes()).ok() == job_fields::parse(&edited).ok() {
            note("nothing was changed");
            if screen.is_json() {
                screen.json(&found.answer.text)?;
            }
            return Ok(0);
        }
        let outcome = job_fields::parse(&edited).map_err(Failure::Failed).and_then(|job| {
            // What is left out of the document takes its default.
            api.call(&found.guard(Ask::send("PUT", format!("/jobs/{}", found.id), Some(Value::Object(job)))))
        });
        match outcome {
            Ok(answer) => return written(screen, "changed", &answer),
            Err(failure) if screen.can_ask() && !failure.is("stale") => {
                screen.complain(&failure);
                if screen.ask("Edit it again?") {
                    continue;
                }
                return keep(&mut draft, failure);
            }
            Err(failure) => return keep(&mut draft, failure),
        }
    }
}

fn keep(draft: &mut Draft, failure: Failure) -> Outcome {
    note(format_args!("your text is kept in {}", draft.keep().display()));
    Err(failure)
}

/// Does something with each of several jobs; the first failure's exit code stands, and the others are told.
fn each(screen: &Screen, jobs: &[String], mut act: impl FnMut(&str) -> Result<(), Failure>) -> Outcome {
    let mut first = None;
    for job in jobs {
        match act(job) {
            Ok(()) => {}
            Err(Failure::Closed) => return Err(Failure::Closed),
            Err(failure) => {
                screen.complain_about(job, &failure);
                first.get_or_insert(failure.exit_code());
            }
        }
    }
    Ok(first.unwrap_or(0))
}

fn delete(api: &Api, screen: &Screen, job: &str, is_sure: bool) -> Result<(), Failure> {
    let found = Found::look_up(api, job)?;
    if !is_sure && screen.can_ask() && !screen.ask(&format!("Delete {}?", found.shown())) {
        note("kept");
        return Ok(());
    }
    api.delete(format!("/jobs/{}", found.id), "no_such_job")?;
    if screen.is_json() { Ok(()) } else { screen.line(format_args!("{} deleted", found.shown())) }
}

fn set_enabled(api: &Api, screen: &Screen, jobs: &[String], is_enabled: bool) -> Outcome {
    let mut documents = Vec::new();
    let code = each(screen, jobs, |job| {
        let found = Found::look_up(api, job)?;
        let change = Ask::send("PATCH", format!("/jobs/{}", found.id), Some(json!({"is_enabled": is_enabled})));
        // Twice paused is paused.
        let answer = api.call(&change.repeatable())?;
        if screen.is_json() {
            documents.push(answer.text.trim().to_owned());
            return Ok(());
        }
        written(screen, if is_enabled { "resumed" } else { "paused" }, &answer).map(drop)
    })?;
    match documents.as_slice() {
        _ if !screen.is_json() => {}
        [document] if jobs.len() == 1 => screen.json(document)?,
        documents => screen.line(format_args!("[{}]", documents.join(",")))?,
    }
    Ok(code)
}

fn run_now(api: &Api, screen: &Screen, job: &str, key: Option<String>, wait: bool) -> Outcome {
    let found = Found::look_up(api, job)?;
    let key = key.unwrap_or_else(|| Uuid::new_v4().to_string());
    // The key makes the request one that may be repeated (PROTOCOL B12).
    let ask = Ask::send("POST", format!("/jobs/{}/run", found.id), None).header("idempotency-key", key).repeatable();
    let answer = api.call(&ask)?;
    let run = answer.json()?;
    let id = text(&run["id"]);
    if wait {
        note(format_args!("run {id} of {}", found.shown()));
        return follow::to_the_end(api, screen, &id);
    }
    if screen.is_json() {
        screen.json(&answer.text)?;
    } else {
        screen.line(format_args!("run {id} of {}: {}", found.shown(), runs::ending(&run)))?;
    }
    Ok(0)
}
