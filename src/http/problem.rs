//! What went wrong, as RFC 9457 `application/problem+json`: the one place where errors become HTTP.

use hyper::StatusCode;
use hyper::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER};
use log::error;
use serde_json::{Map, Value, json};
use warp::reply::Response;

use crate::engine::api::EngineError;
use crate::schedule::ScheduleError;
use crate::store::StoreError;

use super::reply;

/// Seconds after which a client may try again: a leader is found, or a limit has room again.
const RETRY_SOON_S: u32 = 1;
/// The same where the store is away.
const RETRY_STORE_S: u32 = 5;

/// The answer to a request that can't be done. `code` is stable; `detail` is a sentence for people.
#[derive(Clone, PartialEq, Debug)]
pub struct Problem {
    pub status: StatusCode,
    pub code: &'static str,
    pub detail: String,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, code, detail: detail.into(), members: Map::new(), headers: Vec::new() }
    }

    /// Adds a member beyond RFC 9457's own.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Problem {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    pub fn field(self, name: &str) -> Problem {
        self.with("field", name)
    }

    /// The value of a member beyond RFC 9457's own.
    #[cfg(test)]
    pub fn member(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    pub fn retry_after(mut self, seconds: u32) -> Problem {
        self.headers.push((RETRY_AFTER, HeaderValue::from(seconds)));
        self
    }

    pub fn malformed(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    pub fn invalid_parameter(name: &str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail).with("parameter", name)
    }

    /// A field whose value is not one of those allowed. `found` never repeats a secret.
    pub fn invalid_value(field: &str, found: &str, allowed: &str) -> Problem {
        Problem::unprocessable("invalid_value", format!("`{field}`: found {found}; allowed: {allowed}")).field(field)
    }

    pub fn unprocessable(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    pub fn no_such_job() -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "no_such_job", "there is no such job")
    }

    pub fn no_such_run() -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "no_such_run", "there is no such run")
    }

    pub fn no_such_path(path: &str) -> Problem {
        let shown: String = path.chars().take(200).collect();
        Problem::new(StatusCode::NOT_FOUND, "no_such_path", format!("there is nothing at `{shown}`"))
    }

    /// A method that the path does not have; `allowed` is the list for the `Allow` header.
    pub fn method_not_allowed(method: &str, allowed: &str) -> Problem {
        let mut problem = Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!("{method} is not possible here; allowed: {allowed}"),
        );
        if let Ok(value) = HeaderValue::from_str(allowed) {
            problem.headers.push((ALLOW, value));
        }
        problem
    }

    pub fn stale(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::PRECONDITION_FAILED, "stale", detail)
    }

    pub fn unavailable(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).retry_after(RETRY_SOON_S)
    }

    /// Something that should not happen. The cause goes to the log, not to the client.
    pub fn internal(cause: impl std::fmt::Display) -> Problem {
        error!("a request failed: {cause}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "this failed inside the server; its log says more")
    }

    /// The document.
    pub fn body(&self) -> String {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
        });
        if let Value::Object(members) = &mut body {
            members.extend(self.members.clone());
        }
        format!("{body}\n")
    }

    pub fn into_response(self) -> Response {
        let mut response = reply::bytes(self.status, "application/problem+json", self.body());
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        match error {
            StoreError::NoSuchJob => Problem::no_such_job(),
            StoreError::NameTaken { by, .. } => {
                Problem::new(StatusCode::CONFLICT, "name_taken", error.to_string()).field("name").with("job_id", by.0)
            }
            StoreError::Stale { current } => Problem::stale(error.to_string()).with("revision", current),
            StoreError::Unavailable(_) => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", error.to_string()).retry_after(RETRY_STORE_S)
            }
            StoreError::Refused(_) => {
                error!("the store refuses to work: {error}");
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_refused", error.to_string()).retry_after(RETRY_STORE_S)
            }
            StoreError::Internal(_) => Problem::internal(error),
        }
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Problem {
        let code = match error {
            EngineError::NoSuchJob => return Problem::no_such_job(),
            EngineError::NoSuchRun => return Problem::no_such_run(),
            EngineError::Conflict(_) => return Problem::new(StatusCode::CONFLICT, "conflict", error.to_string()),
            EngineError::NoLeader(_) => "no_leader",
            EngineError::Busy(_) => "busy",
            EngineError::Unavailable(_) => "unavailable",
        };
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, error.to_string()).retry_after(RETRY_SOON_S)
    }
}

impl From<ScheduleError> for Problem {
    fn from(error: ScheduleError) -> Problem {
        Problem::unprocessable("invalid_schedule", error.to_string())
            .field(error.property())
            .with("part", error.field())
            .with("column", error.column())
            .with("length", error.length())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::JobId;

    fn outcome(problem: Problem) -> (u16, &'static str, bool) {
        let response = problem.clone().into_response();
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        (response.status().as_u16(), problem.code, response.headers().contains_key("retry-after"))
    }

    #[test]
    fn every_error_has_its_status_and_code_and_says_when_to_try_again() {
        assert_eq!(outcome(StoreError::NoSuchJob.into()), (404, "no_such_job", false));
        assert_eq!(outcome(StoreError::NameTaken { name: "a".into(), by: JobId(7) }.into()), (409, "name_taken", false));
        assert_eq!(outcome(StoreError::Stale { current: 3 }.into()), (412, "stale", false));
        assert_eq!(outcome(StoreError::Unavailable("down".into()).into()), (503, "store_unavailable", true));
        assert_eq!(outcome(StoreError::Refused("other cluster".into()).into()), (503, "store_refused", true));
        assert_eq!(outcome(StoreError::Internal("disk".into()).into()), (500, "internal", false));
        assert_eq!(outcome(EngineError::NoSuchRun.into()), (404, "no_such_run", false));
        assert_eq!(outcome(EngineError::NoLeader("electing".into()).into()), (503, "no_leader", true));
        assert_eq!(outcome(EngineError::Busy("full".into()).into()), (503, "busy", true));
        assert_eq!(outcome(EngineError::Unavailable("worker".into()).into()), (503, "unavailable", true));
    }

    #[test]
    fn what_failed_inside_is_not_told_to_the_client() {
        let problem = Problem::from(StoreError::Internal("/secret/path".into()));
        assert!(!problem.detail.contains("secret"));
    }

    #[test]
    fn a_refused_method_names_those_that_work() {
        let response = Problem::method_not_allowed("POST", "GET, HEAD").into_response();
        assert_eq!(response.headers()["allow"], "GET, HEAD");
    }
}
