//! What can go wrong with a client command: its sentence for people, and its exit code for scripts.

use std::fmt;
use std::io;

use serde_json::Value;

/// Characters of a schedule that are shown above a caret.
const SHOWN_CHARS_MAX: usize = 1_100;

#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Failure {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It could not be done, here.
    #[error("{0}")]
    Failed(String),
    /// The server says no.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// No server could be reached.
    #[error("{0}")]
    Unreachable(String),
    /// Who reads our output has gone away.
    #[error("the output was closed")]
    Closed,
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Closed => 0,
            Failure::Failed(_) => 1,
            Failure::Refused(problem) => {
                if problem.status == 503 {
                    3
                } else {
                    1
                }
            }
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 3,
        }
    }

    /// Whether the server answered with this code.
    pub fn is(&self, code: &str) -> bool {
        matches!(self, Failure::Refused(problem) if problem.code == code)
    }

    /// Whether it may come right by itself.
    pub fn is_retryable(&self) -> bool {
        self.exit_code() == 3
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe { Failure::Closed } else { Failure::Failed(format!("the output failed: {error}")) }
    }
}

/// A server's `application/problem+json`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Problem {
    pub status: u16,
    pub code: String,
    detail: String,
    /// The field or parameter at fault.
    place: Option<String>,
    job_id: Option<i64>,
    pointer: Option<Pointer>,
}

/// Where in a text the mistake is; for a caret below it.
#[derive(Clone, PartialEq, Debug)]
pub struct Pointer {
    pub text: String,
    /// 1-based, in characters.
    pub column: usize,
    pub length: usize,
}

impl Problem {
    /// Reads an answer that is not a success. `sent` is the request's body, in which the field at fault stands.
    pub fn read(status: u16, body: &str, sent: Option<&Value>) -> Problem {
        let document: Value = serde_json::from_str(body).unwrap_or(Value::Null);
        let text = |name: &str| document[name].as_str().map(str::to_owned);
        let number = |name: &str| document[name].as_u64().and_then(|number| usize::try_from(number).ok());
        let place = text("field").or_else(|| text("parameter"));
        let source = place.as_ref().and_then(|place| sent?[place.as_str()].as_str());
        let pointer = source.zip(number("column")).map(|(text, column)| Pointer {
            text: text.to_owned(),
            column,
            length: number("length").unwrap_or(1),
        });
        let shown: String = body.trim().chars().take(200).collect();
        Problem {
            status,
            code: text("code").unwrap_or_else(|| format!("HTTP {status}")),
            detail: text("detail").unwrap_or(if shown.is_empty() { "the server gave no reason".to_owned() } else { shown }),
            place,
            job_id: document["job_id"].as_i64(),
            pointer,
        }
    }

    /// A problem of a schedule that was found here.
    pub fn of_schedule(error: &crate::schedule::ScheduleError, text: &str) -> Problem {
        Problem {
            status: 422,
            code: "invalid_schedule".to_owned(),
            detail: error.to_string(),
            place: Some(error.property().to_owned()),
            job_id: None,
            pointer: Some(Pointer { text: text.to_owned(), column: error.column(), length: error.length() }),
        }
    }

    fn hint(&self) -> Option<String> {
        match self.code.as_str() {
            "name_taken" => self.job_id.map(|id| format!("look at it with `chrono-flow job show {id}`")),
            "stale" => Some("it has changed since it was read; look at it and try again".to_owned()),
            "no_such_job" => Some("`chrono-flow job list` shows what there is".to_owned()),
            "no_such_path" => Some("is this server older than this program, or another one?".to_owned()),
            "unknown_host" => Some("start the server with --http-host for this name".to_owned()),
            _ if self.status == 503 => Some("try again later".to_owned()),
            _ => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}", self.detail, self.code)?;
        if let Some(place) = &self.place {
            write!(f, ", field {place}")?;
        }
        f.write_str("]")?;
        if let Some(hint) = self.hint() {
            write!(f, "; {hint}")?;
        }
        if let Some(pointer) = &self.pointer {
            write!(f, "\n{pointer}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Pointer {
    /// The text, and carets below what is wrong in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = self.text.chars().take(SHOWN_CHARS_MAX).map(plain).collect();
        let before = self.column.saturating_sub(1).min(SHOWN_CHARS_MAX);
        let carets = self.length.clamp(1, SHOWN_CHARS_MAX);
        write!(f, "  {text}\n  {}{}", " ".repeat(before), "^".repeat(carets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_problem_is_a_sentence_with_its_code_and_a_caret_below_the_mistake() {
        let body = json!({"status": 422, "code": "invalid_schedule", "detail": "minute, column 1: found `61`", "field": "schedule", "column": 1,
            "length": 2});
        let problem = Problem::read(422, &body.to_string(), Some(&json!({"schedule": "61 * * * *"})));
        assert_eq!(problem.to_string(), "minute, column 1: found `61` [invalid_schedule, field schedule]\n  61 * * * *\n  ^^");
        assert_eq!(Failure::Refused(Box::new(problem)).exit_code(), 1);
    }

    #[test]
    fn what_is_no_problem_document_is_shown_as_it_is() {
        assert_eq!(Problem::read(502, "bad gateway\n", None).to_string(), "bad gateway [HTTP 502]");
        assert_eq!(Problem::read(500, "", None).to_string(), "the server gave no reason [HTTP 500]");
    }

    #[test]
    fn exit_codes_tell_what_may_come_right() {
        let refused = |status, code: &str| Failure::Refused(Box::new(Problem { status, code: code.into(), ..Problem::default() }));
        assert_eq!(refused(503, "no_leader").exit_code(), 3);
        assert_eq!(refused(404, "no_such_job").exit_code(), 1);
        assert_eq!(Failure::Unreachable(String::new()).exit_code(), 3);
        assert_eq!(Failure::Usage(String::new()).exit_code(), 2);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit_code(), 0);
    }
}
