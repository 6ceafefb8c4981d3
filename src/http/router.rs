//! Finds the handler of a request in one table, and turns what comes of it into an answer.
//!
//! warp hands every request over whole: a table gives exact answers to a wrong path (404) and a wrong method (405 with `Allow`), which a
//! chain of filters does not.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use hyper::Method;
use hyper::StatusCode;
use hyper::header::{ALLOW, HeaderMap};
use log::{debug, warn};
use warp::host::Authority;
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use super::problem::Problem;
use super::query::{self, Query};
use super::request::{BodyStream, Request};
use super::{Context, cluster, health, jobs, origin, output, reply, runs, schedules};

pub type Answer = Result<Response, Problem>;
type Handler = fn(Arc<Context>, Request) -> BoxFuture<'static, Answer>;

struct Route {
    method: &'static str,
    /// Segments in braces take any value.
    pattern: &'static str,
    /// The query parameters that it knows.
    parameters: &'static [&'static str],
    handler: Handler,
}

const fn route(method: &'static str, pattern: &'static str, parameters: &'static [&'static str], handler: Handler) -> Route {
    Route { method, pattern, parameters, handler }
}

const JOB_FILTERS: &[&str] = &["limit", "cursor", "name", "enabled", "label"];
const RUN_FILTERS: &[&str] = &["state", "since", "until", "limit", "cursor"];

/// Of two patterns that fit a path, the first one counts.
const ROUTES: &[Route] = &[
    route("GET", "/", &[], |_, _| Box::pin(health::index())),
    route("GET", "/jobs", JOB_FILTERS, |context, request| Box::pin(jobs::list(context, request))),
    route("POST", "/jobs", &[], |context, request| Box::pin(jobs::create(context, request))),
    route("GET", "/jobs/by-name/{name}", &[], |context, request| Box::pin(jobs::read_by_name(context, request))),
    route("PUT", "/jobs/by-name/{name}", &[], |context, request| Box::pin(jobs::put_by_name(context, request))),
    route("GET", "/jobs/{id}", &[], |context, request| Box::pin(jobs::read(context, request))),
    route("PUT", "/jobs/{id}", &[], |context, request| Box::pin(jobs::replace(context, request))),
    route("PATCH", "/jobs/{id}", &[], |context, request| Box::pin(jobs::patch(context, request))),
    route("DELETE", "/jobs/{id}", &[], |context, request| Box::pin(jobs::delete(context, request))),
    route("POST", "/jobs/{id}/run", &[], |context, request| Box::pin(runs::run_now(context, request))),
    route("GET", "/jobs/{id}/runs", RUN_FILTERS, |context, request| Box::pin(runs::list_of_job(context, request))),
    route("GET", "/jobs/{id}/next", &["count"], |context, request| Box::pin(schedules::next_of_job(context, request))),
    route("GET", "/runs", RUN_FILTERS, |context, request| Box::pin(runs::list(context, request))),
    route("GET", "/runs/{id}", &[], |context, request| Box::pin(runs::read(context, request))),
    route("POST", "/runs/{id}/cancel", &[], |context, request| Box::pin(runs::cancel(context, request))),
    route("GET", "/runs/{id}/output", &["stream", "follow", "from"], |context, request| Box::pin(output::read(context, request))),
    route("POST", "/schedules/preview", &[], |context, request| Box::pin(schedules::preview(context, request))),
    route("GET", "/workers", &[], |context, _| Box::pin(cluster::workers(context))),
    route("GET", "/cluster", &[], |context, _| Box::pin(cluster::cluster(context))),
    route("POST", "/cluster/members", &[], |context, request| Box::pin(cluster::add_member(context, request))),
    route("DELETE", "/cluster/members/{id}", &[], |context, request| Box::pin(cluster::remove_member(context, request))),
    route("POST", "/cluster/transfer", &[], |context, request| Box::pin(cluster::transfer(context, request))),
    route("GET", "/healthz", &[], |_, _| Box::pin(health::alive())),
    route("GET", "/readyz", &[], |context, _| Box::pin(health::ready(context))),
];

/// The API as warp's filter.
pub fn filter(context: Arc<Context>) -> impl Filter<Extract = (impl Reply + use<>,), Error = Infallible> + Clone + use<> {
    // The method comes first: warp's path filter panics on CONNECT, whose target is no path.
    let method = warp::method().and_then(async |method: Method| match method {
        Method::CONNECT => Err(warp::reject::custom(NoTunnels)),
        method => Ok(method),
    });
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    method
        .and(warp::path::full())
        .and(query)
        .and(warp::host::optional())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream().map(|body| StreamExt::boxed(StreamExt::map(body, whole_chunk))))
        .map(|method, path: warp::path::FullPath, query, authority, headers, body| Incoming {
            method,
            path: path.as_str().to_owned(),
            query,
            authority,
            headers,
            body,
        })
        .then(move |incoming| answer(context.clone(), incoming))
        .recover(refuse)
}

fn whole_chunk(chunk: Result<impl Buf, warp::Error>) -> Result<Bytes, warp::Error> {
    chunk.map(|mut chunk| chunk.copy_to_bytes(chunk.remaining()))
}

#[derive(Debug)]
struct NoTunnels;
impl warp::reject::Reject for NoTunnels {}

/// What warp itself refuses: CONNECT, and a `Host` that is none or that contradicts the target.
async fn refuse(rejection: Rejection) -> Result<Response, Infallible> {
    let problem = match rejection.find::<NoTunnels>() {
        Some(NoTunnels) => Problem::method_not_allowed("CONNECT", "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE"),
        None => Problem::malformed("the `Host` header is not valid, or not that of the target"),
    };
    Ok(problem.into_response())
}

/// A request as warp took it apart.
struct Incoming {
    method: Method,
    path: String,
    query: String,
    authority: Option<Authority>,
    headers: HeaderMap,
    body: BodyStream,
}

async fn answer(context: Arc<Context>, incoming: Incoming) -> Response {
    let started = Instant::now();
    let (method, path) = (incoming.method.clone(), incoming.path.clone());
    // Handlers share nothing that a panic could leave half done: what they touch is behind the store and the engine.
    let outcome = match AssertUnwindSafe(dispatch(context, incoming)).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(_) => Err(Problem::internal(format_args!("{method} {path} panicked"))),
    };
    let is_probe = matches!(&outcome, Err(problem) if problem.code == health::NOT_READY);
    let response = outcome.unwrap_or_else(Problem::into_response);
    let status = response.status();
    let ms = started.elapsed().as_millis();
    if status.is_server_error() && !is_probe {
        warn!("{method} {path} {} {ms} ms", status.as_u16());
    } else {
        debug!("{method} {path} {} {ms} ms", status.as_u16());
    }
    response
}

async fn dispatch(context: Arc<Context>, incoming: Incoming) -> Answer {
    if context.is_loopback || !context.settings.allowed_hosts.is_empty() {
        origin::check_host(incoming.authority.as_ref(), &context.settings.allowed_hosts)?;
    }
    let (route, path_values) = match find(incoming.method.as_str(), &incoming.path)? {
        Found::Handler(route, path_values) => (route, path_values),
        Found::Options(allowed) => {
            let mut response = reply::empty(StatusCode::NO_CONTENT);
            reply::set(&mut response, ALLOW, &allowed);
            return Ok(response);
        }
    };
    origin::check_origin(incoming.method.as_str(), &incoming.headers, incoming.authority.as_ref())?;
    let request = Request {
        query: Query::parse(&incoming.query, route.parameters)?,
        headers: incoming.headers,
        path_values,
        body: incoming.body,
        body_ms: context.settings.body_ms,
    };
    (route.handler)(context, request).await
}

enum Found {
    Handler(&'static Route, Vec<String>),
    /// The methods of the path, for who asks for them.
    Options(String),
}

fn find(method: &str, path: &str) -> Result<Found, Problem> {
    let Some((pattern, raw_values)) = ROUTES.iter().find_map(|route| Some((route.pattern, matched(route.pattern, path)?))) else {
        return Err(Problem::no_such_path(path));
    };
    let of_path = || ROUTES.iter().filter(|route| route.pattern == pattern);
    let wanted = if method == "HEAD" { "GET" } else { method };
    if let Some(route) = of_path().find(|route| route.method == wanted) {
        let values: Option<Vec<String>> = raw_values.into_iter().map(|value| query::decode(value, false)).collect();
        let values = values.ok_or_else(|| Problem::malformed("the path is not percent-encoded UTF-8"))?;
        return Ok(Found::Handler(route, values));
    }
    let mut allowed: Vec<&str> = of_path().map(|route| route.method).collect();
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    allowed.push("OPTIONS");
    let allowed = allowed.join(", ");
    if method == "OPTIONS" { Ok(Found::Options(allowed)) } else { Err(Problem::method_not_allowed(method, &allowed)) }
}

/// What stands in the places of the pattern's braces, if the path fits it.
fn matched<'a>(pattern: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let mut values = Vec::new();
    let mut segments = path.split('/');
    for expected in pattern.split('/') {
        let segment = segments.next()?;
        if expected.starts_with('{') {
            if segment.is_empty() {
                return None;
            }
            values.push(segment);
        } else if segment != expected {
            return None;
        }
    }
    segments.next().is_none().then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &str, path: &str) -> Result<(&'static str, Vec<String>), (u16, String)> {
        match find(method, path) {
            Ok(Found::Handler(route, values)) => Ok((route.pattern, values)),
            Ok(Found::Options(allowed)) => Err((204, allowed)),
            Err(problem) => {
                let response = problem.into_response();
                let allowed = response.headers().get("allow").map_or("", |value| value.to_str().unwrap()).to_owned();
                Err((response.status().as_u16(), allowed))
            }
        }
    }

    #[test]
    fn paths_find_their_route_and_values_are_decoded() {
        assert_eq!(found("GET", "/jobs"), Ok(("/jobs", vec![])));
        assert_eq!(found("HEAD", "/jobs/7"), Ok(("/jobs/{id}", vec!["7".into()])));
        assert_eq!(found("PUT", "/jobs/by-name/a%2Fb%20%C3%A9+"), Ok(("/jobs/by-name/{name}", vec!["a/b é+".into()])));
        assert_eq!(found("GET", "/jobs/by-name/7"), Ok(("/jobs/by-name/{name}", vec!["7".into()])));
        assert_eq!(found("PUT", "/jobs/by-name/run"), Ok(("/jobs/by-name/{name}", vec!["run".into()])));
        assert_eq!(found("POST", "/jobs/7/run"), Ok(("/jobs/{id}/run", vec!["7".into()])));
    }

    #[test]
    fn an_unknown_path_is_404_whatever_the_method() {
        for path in ["", "*", "/nope", "/jobs/", "//jobs", "/jobs/1/", "/jobs//run", "/jobs/1/runs/2", "/JOBS", "/jobs/1/2/3"] {
            for method in ["GET", "POST", "DELETE", "BREW"] {
                assert_eq!(found(method, path), Err((404, String::new())), "{method} {path}");
            }
        }
    }

    #[test]
    fn a_wrong_method_is_405_and_names_the_right_ones() {
        assert_eq!(found("DELETE", "/jobs"), Err((405, "GET, POST, HEAD, OPTIONS".into())));
        assert_eq!(found("POST", "/jobs/1"), Err((405, "GET, PUT, PATCH, DELETE, HEAD, OPTIONS".into())));
        assert_eq!(found("GET", "/jobs/1/run"), Err((405, "POST, OPTIONS".into())));
        assert_eq!(found("POST", "/jobs/by-name/run"), Err((405, "GET, PUT, HEAD, OPTIONS".into())));
        assert_eq!(found("TRACE", "/healthz"), Err((405, "GET, HEAD, OPTIONS".into())));
        assert_eq!(found("OPTIONS", "/jobs/1/run"), Err((204, "POST, OPTIONS".into())));
    }

    #[test]
    fn a_path_that_is_no_utf8_is_malformed() {
        for path in ["/jobs/%ff", "/jobs/%", "/jobs/by-name/%zz"] {
            let method = if path.contains("by-name") { "PUT" } else { "GET" };
            assert_eq!(found(method, path), Err((400, String::new())), "{path}");
        }
    }

    #[test]
    fn no_route_stands_twice() {
        for (index, route) in ROUTES.iter().enumerate() {
            assert!(
                !ROUTES[..index].iter().any(|other| (other.method, other.pattern) == (route.method, route.pattern)),
                "{}",
                route.pattern
            );
        }
    }
}
