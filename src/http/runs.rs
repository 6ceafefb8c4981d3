//! `/runs`, and what concerns the runs of one job.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue, LINK, LOCATION};

use crate::model::{JobId, RunState};
use crate::store::RunFilter;

use super::problem::Problem;
use super::query::{Query, not_allowed};
use super::request::Request;
use super::router::Answer;
use super::{Context, history, reply};

/// Stands in the answer to a request whose Idempotency-Key had named this run before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// `POST /jobs/{id}/run`
pub async fn run_now(context: Arc<Context>, mut request: Request) -> Answer {
    let (id, key) = (request.job_id()?, request.idempotency_key()?);
    request.no_body().await?;
    let triggered = context.engine.trigger(id, key).await?;
    let mut response = reply::json(StatusCode::ACCEPTED, &triggered.run)?;
    reply::set(&mut response, LOCATION, &format!("/runs/{}", triggered.run.id));
    if !triggered.is_new {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// `GET /runs`
pub async fn list(context: Arc<Context>, request: Request) -> Answer {
    answer_page(&context, &request.query, None, "/runs").await
}

/// `GET /jobs/{id}/runs`: also of a job that was deleted.
pub async fn list_of_job(context: Arc<Context>, request: Request) -> Answer {
    let id = request.job_id()?;
    answer_page(&context, &request.query, Some(id), &format!("/jobs/{id}/runs")).await
}

/// `GET /runs/{id}`
pub async fn read(context: Arc<Context>, request: Request) -> Answer {
    let run = history::run(&*context.store, &*context.engine, request.run_id()?).await?;
    reply::json(StatusCode::OK, &run.ok_or_else(Problem::no_such_run)?)
}

/// `POST /runs/{id}/cancel`: a run that has ended stays as it is.
pub async fn cancel(context: Arc<Context>, mut request: Request) -> Answer {
    let id = request.run_id()?;
    request.no_body().await?;
    reply::json(StatusCode::ACCEPTED, &context.engine.cancel(id).await?)
}

async fn answer_page(context: &Context, query: &Query, job: Option<JobId>, path: &str) -> Answer {
    let filter = filter(query, job)?;
    let after = query.one("cursor")?.map(history::read_cursor).transpose()?;
    let page = history::page(&*context.store, &*context.engine, &filter, after, query.limit()?).await?;
    if let Some(job) = job.filter(|_| page.runs.is_empty()) {
        check_existed(context, job).await?;
    }
    let mut response = reply::json(StatusCode::OK, &page.runs)?;
    if let Some(next) = page.next {
        let next = query.with_cursor(&history::write_cursor(next));
        reply::set(&mut response, LINK, &format!("<{path}?{next}>; rel=\"next\""));
    }
    if page.is_from_ledger {
        reply::mark_from_ledger(&mut response);
    }
    Ok(response)
}

/// An empty history is that of a job without runs, or of no job at all.
async fn check_existed(context: &Context, job: JobId) -> Result<(), Problem> {
    if context.engine.ledger_job(job).is_some() {
        return Ok(());
    }
    match context.store.job_existed(job).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Problem::no_such_job()),
        Err(error) => Err(error.into()),
    }
}

fn filter(query: &Query, job: Option<JobId>) -> Result<RunFilter, Problem> {
    let mut states = Vec::new();
    for name in query.all("state").flat_map(|names| names.split(',')) {
        let known = || RunState::ALL.map(RunState::name).join(", ");
        let state = RunState::from_name(name).ok_or_else(|| not_allowed("state", name, &known()))?;
        if !states.contains(&state) {
            states.push(state);
        }
    }
    let (since, until) = (history::read_instant(query, "since")?, history::read_instant(query, "until")?);
    Ok(RunFilter { job, states, since, until })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_may_be_repeated_or_listed() {
        let states = |text: &str| filter(&Query::parse(text, &["state"]).unwrap(), None).map(|filter| filter.states);
        assert_eq!(states(""), Ok(vec![]));
        assert_eq!(states("state=failed,lost&state=failed&state=running"), Ok(vec![RunState::Failed, RunState::Lost, RunState::Running]));
        for bad in ["state=", "state=Failed", "state=failed,", "state=done"] {
            assert_eq!(states(bad).unwrap_err().code, "invalid_parameter", "{bad}");
        }
    }
}
