//! The fields of a job in JSON, in one table: who writes each, and what is allowed in it. Every refusal names its field.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::model::{CatchUp, JobSpec, Kind, OnWorkerLost, Overlap, Retry, UnixMs, limits};

use super::json;
use super::problem::Problem;

/// Environment names that belong to the run itself.
const ENV_RESERVED_PREFIX: &str = "CHRONO_FLOW_";
/// Characters of a wrong value that an error repeats.
const FOUND_CHARS_MAX: usize = 60;

pub struct Field {
    pub name: &'static str,
    pub rule: Rule,
}

pub enum Rule {
    /// Users write it.
    Spec(fn(&mut JobSpec, Given) -> Result<(), Problem>),
    /// The server writes it, and it changes with the job only: may come back as it is.
    Fixed,
    /// The server writes it, and it moves by itself: may come back with any value.
    Moving,
    /// Part of the interface, and refused until it is built.
    NotBuilt,
}

use Rule::{Fixed, Moving, NotBuilt, Spec};

const fn field(name: &'static str, rule: Rule) -> Field {
    Field { name, rule }
}

pub const FIELDS: &[Field] = &[
    field("id", Fixed),
    field("name", Spec(|job, given| given.name().map(|name| job.name = name))),
    field("schedule", Spec(|job, given| given.text(1, limits::SCHEDULE_BYTES_MAX).map(|text| job.schedule = text.into()))),
    field("time_zone", Spec(|job, given| given.text(1, limits::NAME_CHARS_MAX).map(|text| job.time_zone = text.into()))),
    field("kind", Spec(|job, given| given.one_of(&[("shell", Kind::Shell)]).map(|kind| job.kind = kind))),
    field("command", Spec(|job, given| given.command().map(|command| job.command = command))),
    field("is_enabled", Spec(|job, given| given.boolean().map(|is_enabled| job.is_enabled = is_enabled))),
    field("description", Spec(|job, given| given.or_null(Given::description).map(|description| job.description = description))),
    field("labels", Spec(|job, given| given.labels().map(|labels| job.labels = labels))),
    field("env", Spec(|job, given| given.env().map(|env| job.env = env))),
    field("working_dir", Spec(|job, given| given.or_null(Given::directory).map(|directory| job.working_dir = directory))),
    field("user", NotBuilt),
    field("timeout_s", Spec(|job, given| given.or_null(|given| given.count(1, limits::TIMEOUT_S_MAX)).map(|count| job.timeout_s = count))),
    field("kill_grace_s", Spec(|job, given| given.count(0, limits::KILL_GRACE_S_MAX).map(|count| job.kill_grace_s = count))),
    field("retry", Spec(|job, given| given.retry().map(|retry| job.retry = retry))),
    field("overlap", Spec(|job, given| given.overlap().map(|overlap| job.overlap = overlap))),
    field("catch_up", Spec(|job, given| given.one_of(CATCH_UP).map(|catch_up| job.catch_up = catch_up))),
    field("catch_up_window_s", Spec(|job, given| given.count(0, limits::CATCH_UP_WINDOW_S_MAX).map(|count| job.catch_up_window_s = count))),
    field("catch_up_max", Spec(|job, given| given.count(1, limits::CATCH_UP_MAX_MAX).map(|count| job.catch_up_max = count))),
    field("start_deadline_s", Spec(|job, given| given.count(1, limits::START_DEADLINE_S_MAX).map(|count| job.start_deadline_s = count))),
    field("worker_selector", Spec(|job, given| given.labels().map(|labels| job.worker_selector = labels))),
    field("on_worker_lost", Spec(|job, given| given.one_of(ON_WORKER_LOST).map(|policy| job.on_worker_lost = policy))),
    field("lost_after_s", Spec(|job, given| given.count(1, limits::LOST_AFTER_S_MAX).map(|count| job.lost_after_s = count))),
    field("starts_at", Spec(|job, given| given.or_null(Given::instant).map(|instant| job.starts_at = instant))),
    field("ends_at", Spec(|job, given| given.or_null(Given::instant).map(|instant| job.ends_at = instant))),
    field("jitter_s", NotBuilt),
    field("max_output_bytes", Spec(|job, given| given.count(0, limits::MAX_OUTPUT_BYTES_MAX).map(|count| job.max_output_bytes = count))),
    field("created_at", Fixed),
    field("updated_at", Fixed),
    field("revision", Fixed),
    field("next_fire_at", Moving),
    field("last_run", Moving),
    field("applied", Moving),
    field("pending_revocations", Moving),
];

const ON_WORKER_LOST: &[(&str, OnWorkerLost)] = &[("wait", OnWorkerLost::Wait), ("retry", OnWorkerLost::Retry)];
const CATCH_UP: &[(&str, CatchUp)] = &[("none", CatchUp::None), ("last", CatchUp::Last), ("all", CatchUp::All)];
const OVERLAP: &[(&str, Overlap)] =
    &[("allow", Overlap::Allow), ("skip", Overlap::Skip), ("queue_one", Overlap::QueueOne), ("replace", Overlap::Replace)];

/// A field with the value that a client gave it.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    pub field: &'a str,
    pub value: &'a Value,
}

impl<'a> Given<'a> {
    pub fn refuse(&self, allowed: &str) -> Problem {
        Problem::invalid_value(self.field, &shown(self.value), allowed)
    }

    fn or_null<T>(&self, read: impl FnOnce(&Given<'a>) -> Result<T, Problem>) -> Result<Option<T>, Problem> {
        if self.value.is_null() { Ok(None) } else { read(self).map(Some) }
    }

    /// Text that a command line, an environment and PostgreSQL can hold: without NUL.
    pub fn text(&self, bytes_min: usize, bytes_max: usize) -> Result<&'a str, Problem> {
        let Some(text) = self.value.as_str() else { return Err(self.refuse("a string")) };
        check_text(self.field, text, bytes_min, bytes_max)?;
        Ok(text)
    }

    fn name(&self) -> Result<Box<str>, Problem> {
        let allowed = format!("1 to {} characters, not only blanks, no control characters", limits::NAME_CHARS_MAX);
        let Some(text) = self.value.as_str() else { return Err(self.refuse("a string")) };
        let chars = text.chars().count();
        if text.trim().is_empty() || chars > limits::NAME_CHARS_MAX || text.chars().any(char::is_control) {
            return Err(Problem::invalid_value(self.field, &format!("{} ({chars} characters)", shown(self.value)), &allowed));
        }
        Ok(text.into())
    }

    fn description(&self) -> Result<Box<str>, Problem> {
        self.text(0, limits::DESCRIPTION_BYTES_MAX).map(Into::into)
    }

    fn command(&self) -> Result<Box<str>, Problem> {
        let text = self.text(1, limits::COMMAND_BYTES_MAX)?;
        if text.trim().is_empty() { Err(self.refuse("something to run")) } else { Ok(text.into()) }
    }

    fn directory(&self) -> Result<Box<str>, Problem> {
        let text = self.text(1, limits::WORKING_DIR_BYTES_MAX)?;
        if text.starts_with('/') { Ok(text.into()) } else { Err(self.refuse("an absolute path")) }
    }

    fn boolean(&self) -> Result<bool, Problem> {
        self.value.as_bool().ok_or_else(|| self.refuse("true or false"))
    }

    pub fn count(&self, min: u32, max: u32) -> Result<u32, Problem> {
        let count = self.value.as_u64().and_then(|count| u32::try_from(count).ok());
        count.filter(|count| (min..=max).contains(count)).ok_or_else(|| self.refuse(&format!("a whole number from {min} to {max}")))
    }

    pub fn instant(&self) -> Result<UnixMs, Problem> {
        let instant = self.value.as_str().and_then(|text| text.parse::<UnixMs>().ok());
        instant.ok_or_else(|| self.refuse("an RFC 3339 timestamp such as 2026-01-31T12:00:00Z"))
    }

    fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, Problem> {
        let chosen = choices.iter().find(|(name, _)| self.value.as_str() == Some(name));
        chosen.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<String> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
            self.refuse(&names.join(", "))
        })
    }

    fn overlap(&self) -> Result<Overlap, Problem> {
        if self.value.as_str() == Some("queue_all") {
            return Err(not_supported(self.field, "the value `queue_all` of `overlap`"));
        }
        self.one_of(OVERLAP)
    }

    fn object(&self) -> Result<&'a Map<String, Value>, Problem> {
        self.value.as_object().ok_or_else(|| self.refuse("an object"))
    }

    fn retry(&self) -> Result<Retry, Problem> {
        let mut retry = Retry::default();
        let mut has_max_backoff = false;
        for (name, value) in self.object()? {
            let path = format!("{}.{name}", self.field);
            let given = Given { field: &path, value };
            match name.as_str() {
                "max_attempts" => retry.max_attempts = given.count(1, limits::RETRY_MAX_ATTEMPTS_MAX)?,
                "backoff_s" => retry.backoff_s = given.count(0, limits::RETRY_BACKOFF_S_MAX)?,
                "max_backoff_s" => {
                    retry.max_backoff_s = given.count(0, limits::RETRY_BACKOFF_S_MAX)?;
                    has_max_backoff = true;
                }
                _ => return Err(unknown_field(&path)),
            }
        }
        if !has_max_backoff {
            retry.max_backoff_s = retry.max_backoff_s.max(retry.backoff_s);
        } else if retry.max_backoff_s < retry.backoff_s {
            let allowed = format!("no less than `backoff_s`, which is {}", retry.backoff_s);
            return Err(Problem::invalid_value("retry.max_backoff_s", &retry.max_backoff_s.to_string(), &allowed));
        }
        Ok(retry)
    }

    fn labels(&self) -> Result<BTreeMap<String, String>, Problem> {
        let object = self.object()?;
        if object.len() > limits::LABELS_MAX {
            return Err(Problem::invalid_value(self.field, &format!("{} labels", object.len()), &format!("up to {}", limits::LABELS_MAX)));
        }
        let mut labels = BTreeMap::new();
        for (name, value) in object {
            let path = format!("{}.{}", self.field, cut(name));
            let has_bad = |text: &str| text.chars().any(char::is_control);
            if name.is_empty() || name.chars().count() > limits::LABEL_NAME_CHARS_MAX || name.contains('=') || has_bad(name) {
                let allowed = format!("names of 1 to {} characters without `=` and control characters", limits::LABEL_NAME_CHARS_MAX);
                return Err(Problem::invalid_value(&path, "its name", &allowed));
            }
            let allowed = format!("a string of up to {} characters without control characters", limits::LABEL_VALUE_CHARS_MAX);
            let given = Given { field: &path, value };
            let text = value.as_str().filter(|text| text.chars().count() <= limits::LABEL_VALUE_CHARS_MAX && !has_bad(text));
            labels.insert(name.clone(), text.ok_or_else(|| given.refuse(&allowed))?.to_owned());
        }
        Ok(labels)
    }

    /// The environment. Its values may be secrets: errors never repeat them.
    fn env(&self) -> Result<BTreeMap<String, String>, Problem> {
        let mut env = BTreeMap::new();
        let mut bytes = 0;
        let Some(object) = self.value.as_object() else {
            return Err(Problem::invalid_value(self.field, json::kind(self.value), "an object"));
        };
        for (name, value) in object {
            let path = format!("{}.{}", self.field, cut(name));
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(Problem::invalid_value(&path, "its name", "names that are not empty and have no `=` and no NUL"));
            }
            if name.starts_with(ENV_RESERVED_PREFIX) {
                return Err(Problem::invalid_value(
                    &path,
                    "its name",
                    &format!("names that don't begin with {ENV_RESERVED_PREFIX}, which the run sets itself"),
                ));
            }
            let Some(text) = value.as_str() else {
                return Err(Problem::invalid_value(&path, json::kind(value), "a string"));
            };
            if text.contains('\0') {
                return Err(Problem::invalid_value(&path, "a NUL character", "text without NUL"));
            }
            bytes += name.len() + text.len();
            env.insert(name.clone(), text.to_owned());
        }
        if bytes > limits::ENV_BYTES_MAX {
            let allowed = format!("{} bytes in all its names and values", limits::ENV_BYTES_MAX);
            return Err(Problem::invalid_value(self.field, &format!("{bytes} bytes"), &allowed));
        }
        Ok(env)
    }
}

fn check_text(field: &str, text: &str, bytes_min: usize, bytes_max: usize) -> Result<(), Problem> {
    if !(bytes_min..=bytes_max).contains(&text.len()) {
        return Err(Problem::invalid_value(field, &format!("{} bytes", text.len()), &format!("{bytes_min} to {bytes_max} bytes")));
    }
    match text.find('\0') {
        Some(at) => Err(Problem::invalid_value(field, &format!("a NUL character at byte {at}"), "text without NUL")),
        None => Ok(()),
    }
}

pub fn unknown_field(path: &str) -> Problem {
    let path = cut(path);
    Problem::unprocessable("unknown_field", format!("the field `{path}` is not known here")).field(&path)
}

pub fn not_supported(field: &str, what: &str) -> Problem {
    Problem::unprocessable("not_supported", format!("{what} is not supported by this version")).field(field)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null | Value::Array(_) | Value::Object(_) => json::kind(value).to_owned(),
        Value::Bool(_) | Value::Number(_) => format!("`{value}`"),
        Value::String(text) if text.chars().count() > FOUND_CHARS_MAX => format!("`{}…`", cut(text)),
        Value::String(text) => format!("`{text}`"),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(FOUND_CHARS_MAX).collect()
}
