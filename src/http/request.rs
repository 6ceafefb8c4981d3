//! A request as handlers see it: what its path and query said, and its body, read only by those that want it.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use crate::model::{JobId, Revision, RunId, limits};

use super::json;
use super::problem::Problem;
use super::query::Query;

/// Bytes that are read and thrown away of a body that is too large, so that the client hears why and not only a closed connection.
const DISCARD_BYTES_MAX: usize = 8 * 1024 * 1024;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";

pub type BodyStream = BoxStream<'static, Result<Bytes, warp::Error>>;

pub struct Request {
    pub headers: HeaderMap,
    pub query: Query,
    /// What stood in the places of the route's `{…}`, decoded.
    pub path_values: Vec<String>,
    pub body: BodyStream,
    /// How long the body may take.
    pub body_ms: u64,
}

impl Request {
    /// The first value in the path.
    pub fn path_value(&self) -> &str {
        self.path_values.first().map_or("", String::as_str)
    }

    /// The job named in the path; what can't be a job's id is no job.
    pub fn job_id(&self) -> Result<JobId, Problem> {
        let id: i64 = self.path_value().parse().map_err(|_| Problem::no_such_job())?;
        if id > 0 { Ok(JobId(id)) } else { Err(Problem::no_such_job()) }
    }

    pub fn run_id(&self) -> Result<RunId, Problem> {
        uuid::Uuid::parse_str(self.path_value()).map(RunId).map_err(|_| Problem::no_such_run())
    }

    /// The body as a JSON object.
    pub async fn object(&mut self) -> Result<Map<String, Value>, Problem> {
        self.check_type(&[JSON])?;
        json::parse_object(&self.read_body().await?)
    }

    /// The body as a merge patch.
    pub async fn patch(&mut self) -> Result<Map<String, Value>, Problem> {
        self.check_type(&[MERGE_PATCH, JSON])?;
        json::parse_object(&self.read_body().await?)
    }

    /// The body as a JSON object; no body says as much as `{}`.
    pub async fn object_or_none(&mut self) -> Result<Map<String, Value>, Problem> {
        let body = self.read_body().await?;
        if body.is_empty() {
            return Ok(Map::new());
        }
        self.check_type(&[JSON])?;
        json::parse_object(&body)
    }

    /// Reads the body of a request that asks for nothing in it: none, or `{}`.
    pub async fn no_body(&mut self) -> Result<(), Problem> {
        match self.object_or_none().await?.keys().next() {
            None => Ok(()),
            Some(name) => Err(Problem::unprocessable("unknown_field", format!("the field `{name}` is not known here")).field(name)),
        }
    }

    /// The `Idempotency-Key`, if there is one.
    pub fn idempotency_key(&self) -> Result<Option<String>, Problem> {
        let refuse = || {
            let allowed = format!("1 to {} visible ASCII characters, once", limits::IDEMPOTENCY_KEY_BYTES_MAX);
            Problem::malformed(format!("the Idempotency-Key must be {allowed}"))
        };
        let Some(key) = single(&self.headers, &IDEMPOTENCY_KEY).map_err(|()| refuse())? else { return Ok(None) };
        if key.is_empty() || key.len() > limits::IDEMPOTENCY_KEY_BYTES_MAX {
            return Err(refuse());
        }
        Ok(Some(key.to_owned()))
    }

    pub fn if_match(&self) -> Result<Option<Tags>, Problem> {
        Tags::read(&self.headers, &IF_MATCH)
    }

    pub fn if_none_match(&self) -> Result<Option<Tags>, Problem> {
        Tags::read(&self.headers, &IF_NONE_MATCH)
    }

    fn check_type(&self, allowed: &[&str]) -> Result<(), Problem> {
        let refuse = || {
            let detail = format!("the body must be JSON: send the header `Content-Type: {}`", allowed[0]);
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_type", detail)
        };
        if self.headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return Err(refuse());
        }
        let text = single(&self.headers, &CONTENT_TYPE).map_err(|()| refuse())?.ok_or_else(refuse)?;
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let is_utf8 = |parameter: &str| match parameter.split_once('=') {
            Some((name, value)) => {
                !name.trim().eq_ignore_ascii_case("charset") || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
            }
            None => parameter.is_empty(),
        };
        if allowed.iter().any(|kind| kind.eq_ignore_ascii_case(essence)) && parts.all(is_utf8) { Ok(()) } else { Err(refuse()) }
    }

    async fn read_body(&mut self) -> Result<Vec<u8>, Problem> {
        let declared = self.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|bytes| bytes > limits::BODY_BYTES_MAX as u64) && self.headers.contains_key(EXPECT) {
            return Err(too_large());
        }
        let deadline = Instant::now() + Duration::from_millis(self.body_ms);
        let mut body = Vec::with_capacity(declared.unwrap_or(0).min(limits::BODY_BYTES_MAX as u64) as usize);
        let mut received = 0;
        loop {
            let chunk = match timeout_at(deadline, self.body.next()).await {
                Err(_) if received > limits::BODY_BYTES_MAX => return Err(too_large()),
                Err(_) => return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body took too long to arrive")),
                Ok(Some(Err(_))) => return Err(Problem::malformed("the body broke off")),
                Ok(Some(Ok(chunk))) => chunk,
                Ok(None) if received > limits::BODY_BYTES_MAX => return Err(too_large()),
                Ok(None) => return Ok(body),
            };
            received += chunk.len();
            if received <= limits::BODY_BYTES_MAX {
                body.extend_from_slice(&chunk);
            } else if received > DISCARD_BYTES_MAX {
                return Err(too_large());
            }
        }
    }
}

fn too_large() -> Problem {
    let detail = format!("the body has more than {} bytes", limits::BODY_BYTES_MAX);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail).with("bytes_max", limits::BODY_BYTES_MAX)
}

/// The value of a header that may stand once; an error if it stands twice or is not ASCII.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(());
    }
    value.to_str().map(Some).map_err(|_| ())
}

/// The entity tags of an `If-Match` or `If-None-Match` (RFC 9110, section 13.1). A job's tag is its revision in quotes.
#[derive(Clone, PartialEq, Debug)]
pub enum Tags {
    Any,
    /// The revisions among them. Tags that are weak or no revision match nothing, and are left out.
    Revisions(Vec<Revision>),
}

impl Tags {
    fn read(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
        let mut revisions = Vec::new();
        let mut is_given = false;
        for value in headers.get_all(name) {
            is_given = true;
            let refuse = || Problem::malformed(format!("`{name}` must be `*` or a list of entity tags such as \"3\""));
            let text = value.to_str().map_err(|_| refuse())?.trim();
            if text == "*" {
                return Ok(Some(Tags::Any));
            }
            for tag in text.split(',').map(str::trim) {
                let quoted = tag.strip_prefix("W/").unwrap_or(tag);
                let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(refuse)?;
                if quoted.len() == tag.len() {
                    revisions.extend(inner.parse::<Revision>().ok());
                }
            }
        }
        Ok(is_given.then_some(Tags::Revisions(revisions)))
    }

    /// Whether what has this revision now (none: doesn't exist) is among them.
    pub fn matches(&self, current: Option<Revision>) -> bool {
        match (self, current) {
            (_, None) => false,
            (Tags::Any, Some(_)) => true,
            (Tags::Revisions(revisions), Some(current)) => revisions.contains(&current),
        }
    }
}

/// Refuses a write of what is at `current` if an `If-Match` asks for another revision.
pub fn check_match(tags: Option<&Tags>, current: Option<Revision>) -> Result<(), Problem> {
    if tags.is_none_or(|tags| tags.matches(current)) {
        return Ok(());
    }
    Err(match current {
        Some(current) => Problem::stale(format!("the job is at revision {current}")).with("revision", current),
        None => Problem::stale("the job does not exist"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)], body: &[&str]) -> Request {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let chunks: Vec<Result<Bytes, warp::Error>> = body.iter().map(|chunk| Ok(Bytes::copy_from_slice(chunk.as_bytes()))).collect();
        Request {
            headers: map,
            query: Query::default(),
            path_values: Vec::new(),
            body: futures::stream::iter(chunks).boxed(),
            body_ms: 10_000,
        }
    }

    #[tokio::test]
    async fn only_json_is_read_as_json() {
        for good in ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\"", "application/json; v=1"] {
            assert!(request(&[("content-type", good)], &["{\"a\":", "1}"]).object().await.is_ok(), "{good}");
        }
        for bad in
            ["text/plain", "application/json; charset=latin1", "application/x-www-form-urlencoded", "", "application/merge-patch+json"]
        {
            let problem = request(&[("content-type", bad)], &["{}"]).object().await.unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.code), (415, "unsupported_type"), "{bad}");
        }
        assert_eq!(request(&[], &["{}"]).object().await.unwrap_err().code, "unsupported_type");
        let packed = [("content-type", "application/json"), ("content-encoding", "gzip")];
        assert_eq!(request(&packed, &["{}"]).object().await.unwrap_err().code, "unsupported_type");
        assert!(request(&[("content-type", "application/merge-patch+json")], &["{}"]).patch().await.is_ok());
    }

    #[tokio::test]
    async fn a_body_is_counted_whatever_its_length_was_said_to_be() {
        let json = [("content-type", "application/json")];
        let fitting = format!("{{\"a\":\"{}\"}}", "x".repeat(limits::BODY_BYTES_MAX - 8));
        assert!(request(&json, &[&fitting]).object().await.is_ok());
        let problem = request(&json, &[&fitting, " "]).object().await.unwrap_err();
        assert_eq!((problem.status.as_u16(), problem.code), (413, "body_too_large"));
    }

    #[tokio::test]
    async fn a_body_without_end_is_not_read_for_long() {
        let read = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = read.clone();
        let mut endless = request(&[("content-type", "application/json")], &[]);
        endless.body = futures::stream::repeat_with(move || {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(Bytes::from_static(&[b' '; 64 * 1024]))
        })
        .boxed();
        assert_eq!(endless.object().await.unwrap_err().code, "body_too_large");
        assert_eq!(read.load(std::sync::atomic::Ordering::Relaxed), DISCARD_BYTES_MAX / (64 * 1024) + 1);
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let mut slow = request(&[("content-type", "application/json")], &[]);
        (slow.body, slow.body_ms) = (futures::stream::pending().boxed(), 1);
        assert_eq!(slow.object().await.unwrap_err().status.as_u16(), 408);
    }

    #[tokio::test]
    async fn where_no_body_is_wanted_an_empty_object_will_do() {
        assert_eq!(request(&[], &[]).no_body().await, Ok(()));
        assert_eq!(request(&[("content-type", "application/json")], &[" {} "]).no_body().await, Ok(()));
        assert_eq!(request(&[("content-type", "application/json")], &["{\"env\":{}}"]).no_body().await.unwrap_err().code, "unknown_field");
        assert_eq!(request(&[("content-type", "text/plain")], &["{}"]).no_body().await.unwrap_err().status.as_u16(), 415);
    }

    #[test]
    fn if_match_takes_lists_and_stars_and_no_weak_tags() {
        let tags = |value: &str| request(&[("if-match", value)], &[]).if_match();
        assert_eq!(tags("*"), Ok(Some(Tags::Any)));
        assert_eq!(tags("\"3\", \"4\""), Ok(Some(Tags::Revisions(vec![3, 4]))));
        assert_eq!(tags("W/\"3\", \"x\""), Ok(Some(Tags::Revisions(vec![]))));
        assert_eq!(request(&[], &[]).if_match(), Ok(None));
        for bad in ["3", "\"3", "", "\"3\",,"] {
            assert_eq!(tags(bad).unwrap_err().code, "malformed", "{bad}");
        }
        assert_eq!(check_match(Some(&Tags::Revisions(vec![3])), Some(3)), Ok(()));
        assert_eq!(check_match(Some(&Tags::Revisions(vec![3])), Some(4)).unwrap_err().code, "stale");
        assert_eq!(check_match(Some(&Tags::Any), None).unwrap_err().code, "stale");
        assert_eq!(check_match(None, Some(4)), Ok(()));
    }

    #[test]
    fn an_idempotency_key_is_bounded_and_stands_once() {
        let key = |value: &str| request(&[("idempotency-key", value)], &[]).idempotency_key();
        assert_eq!(key("deploy-42"), Ok(Some("deploy-42".to_owned())));
        assert!(key("").is_err());
        assert!(key(&"k".repeat(256)).is_err());
        assert!(key("é").is_err());
        let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
        assert!(request(&twice, &[]).idempotency_key().is_err());
    }
}
