//! Answers: bodies with their headers.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use serde::Serialize;
use warp::Reply;
use warp::reply::Response;

use super::problem::Problem;

/// Says that an answer came from the ledger because the store is away: it has all jobs, but only recent runs.
const SOURCE: HeaderName = HeaderName::from_static("x-chrono-flow-source");

pub fn bytes(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into().into());
    *response.status_mut() = status;
    describe(&mut response, content_type);
    response
}

pub fn json(status: StatusCode, body: &impl Serialize) -> Result<Response, Problem> {
    let mut text = serde_json::to_vec(body).map_err(Problem::internal)?;
    // For those who read it in a terminal.
    text.push(b'\n');
    Ok(bytes(status, "application/json", text))
}

pub fn empty(status: StatusCode) -> Response {
    status.into_response()
}

/// A body that is made while it is sent. An error in the stream cuts the answer off, so that the client sees that it is not whole.
pub fn stream<S>(content_type: &'static str, body: S) -> Response
where
    S: futures::Stream<Item = Result<Bytes, std::io::Error>> + Send + Sync + 'static,
{
    let mut response = warp::reply::stream(body).into_response();
    describe(&mut response, content_type);
    response
}

fn describe(response: &mut Response, content_type: &'static str) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// Adds a header whose text is our own; one that can't be a header is left out.
pub fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

pub fn mark_from_ledger(response: &mut Response) {
    response.headers_mut().insert(SOURCE, HeaderValue::from_static("ledger"));
}
