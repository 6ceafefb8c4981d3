//! `/jobs`: reading and writing jobs. Reads fall back on the ledger while the store is away; writes need the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{ETAG, HeaderName, LINK, LOCATION};
use serde_json::{Map, Value};
use warp::reply::Response;

use crate::model::{Job, JobId, Revision, Run, UnixMs};
use crate::store::{JobFilter, JobPage, StoreError, Written};

use super::job_json::{self, JobView};
use super::problem::Problem;
use super::query::{Query, not_allowed};
use super::request::{Request, Tags, check_match};
use super::router::Answer;
use super::{APPLIED_MS_MAX, Context, reply};

const TOTAL_COUNT: HeaderName = HeaderName::from_static("x-total-count");
/// How often a patch is tried again when somebody else writes the job in between.
const PATCH_ATTEMPTS_MAX: u32 = 5;

/// `GET /jobs`
pub async fn list(context: Arc<Context>, request: Request) -> Answer {
    let query = &request.query;
    let filter = filter(query)?;
    let after = query.one("cursor")?.map(read_cursor).transpose()?;
    let limit = query.limit()?;
    let (page, is_from_ledger) = match context.store.jobs(&filter, after, limit).await {
        Ok(page) => (page, false),
        Err(StoreError::Unavailable(_)) => (page_of_ledger(context.engine.ledger_jobs(), &filter, after, limit), true),
        Err(error) => return Err(error.into()),
    };
    let last_runs = last_runs(&context, &page.jobs).await?;
    let now = context.now_to_show();
    let views: Vec<JobView> = page.jobs.iter().map(|job| JobView::new(job, last_runs.get(&job.id), now)).collect();
    let mut response = reply::json(StatusCode::OK, &views)?;
    response.headers_mut().insert(TOTAL_COUNT, page.total.into());
    if let Some(last) = page.jobs.last().filter(|_| page.has_more) {
        let next = query.with_cursor(&format!("j{}", last.id));
        reply::set(&mut response, LINK, &format!("</jobs?{next}>; rel=\"next\""));
    }
    if is_from_ledger {
        reply::mark_from_ledger(&mut response);
    }
    Ok(response)
}

/// `POST /jobs`
pub async fn create(context: Arc<Context>, mut request: Request) -> Answer {
    let object = request.object().await?;
    let now = time_of_write(&context).await?;
    let spec = job_json::parse(&object, None, now)?;
    let written = context.store.create_job(spec, now).await?;
    answer_written(&context, written).await
}

/// `GET /jobs/{id}`
pub async fn read(context: Arc<Context>, request: Request) -> Answer {
    let (job, is_from_ledger) = load(&context, request.job_id()?).await?;
    answer_read(&context, job, is_from_ledger).await
}

/// `GET /jobs/by-name/{name}`
pub async fn read_by_name(context: Arc<Context>, request: Request) -> Answer {
    let name = request.path_value();
    let (job, is_from_ledger) = match context.store.job_by_name(name).await {
        Ok(job) => (job.ok_or_else(Problem::no_such_job)?, false),
        // As in `load`: what the ledger lacks is not known not to be.
        Err(error @ StoreError::Unavailable(_)) => {
            let known = context.engine.ledger_jobs().into_iter().find(|job| *job.spec.name == *name);
            (known.ok_or(error)?, true)
        }
        Err(error) => return Err(error.into()),
    };
    answer_read(&context, job, is_from_ledger).await
}

async fn answer_read(context: &Context, job: Job, is_from_ledger: bool) -> Answer {
    let last_runs = last_runs(context, std::slice::from_ref(&job)).await?;
    let mut view = JobView::new(&job, last_runs.get(&job.id), context.now_to_show());
    view.pending_revocations = context.engine.pending_revocations(job.id);
    let mut response = reply::json(StatusCode::OK, &view)?;
    tag(&mut response, job.revision);
    if is_from_ledger {
        reply::mark_from_ledger(&mut response);
    }
    Ok(response)
}

/// `PUT /jobs/{id}`
pub async fn replace(context: Arc<Context>, mut request: Request) -> Answer {
    let (id, tags) = (request.job_id()?, request.if_match()?);
    let object = request.object().await?;
    let now = time_of_write(&context).await?;
    let current = context.store.job(id).await?.ok_or_else(Problem::no_such_job)?;
    check_match(tags.as_ref(), Some(current.revision))?;
    let spec = job_json::parse(&object, Some(&current), now)?;
    let written = context.store.replace_job(id, expected(tags.as_ref(), &object, &current), spec, now).await?;
    answer_written(&context, written).await
}

/// `PATCH /jobs/{id}`
pub async fn patch(context: Arc<Context>, mut request: Request) -> Answer {
    let (id, tags) = (request.job_id()?, request.if_match()?);
    let patch = request.patch().await?;
    let now = time_of_write(&context).await?;
    for _ in 0..PATCH_ATTEMPTS_MAX {
        let current = context.store.job(id).await?.ok_or_else(Problem::no_such_job)?;
        check_match(tags.as_ref(), Some(current.revision))?;
        let spec = job_json::parse_patch(patch.clone(), &current, now)?;
        match context.store.replace_job(id, Some(current.revision), spec, now).await {
            // A patch means the job as it is; one that names a revision finds out in the next round that it is too late.
            Err(StoreError::Stale { .. }) => {}
            outcome => return answer_written(&context, outcome?).await,
        }
    }
    Err(Problem::unavailable("others keep writing this job"))
}

/// `PUT /jobs/by-name/{name}`
pub async fn put_by_name(context: Arc<Context>, mut request: Request) -> Answer {
    let name = request.path_value().to_owned();
    let (tags, is_create_only) = (request.if_match()?, request.if_none_match()? == Some(Tags::Any));
    let mut object = request.object().await?;
    let given = object.entry("name").or_insert_with(|| Value::String(name.clone()));
    if given.as_str() != Some(&name) {
        return Err(Problem::invalid_value("name", "another name than in the path", "the same, or none"));
    }
    let now = time_of_write(&context).await?;
    let current = context.store.job_by_name(&name).await?;
    check_match(tags.as_ref(), current.as_ref().map(|job| job.revision))?;
    if is_create_only && current.is_some() {
        return Err(Problem::stale("a job of this name exists"));
    }
    let spec = job_json::parse(&object, current.as_ref(), now)?;
    let written = match &current {
        _ if is_create_only => context.store.create_job(spec, now).await.map_err(|error| match error {
            StoreError::NameTaken { .. } => Problem::stale("a job of this name exists"),
            other => other.into(),
        })?,
        Some(job) => context.store.put_job_by_name(expected(tags.as_ref(), &object, job), spec, now).await?,
        None => context.store.put_job_by_name(None, spec, now).await?,
    };
    answer_written(&context, written).await
}

/// `DELETE /jobs/{id}`
pub async fn delete(context: Arc<Context>, mut request: Request) -> Answer {
    let (id, tags) = (request.job_id()?, request.if_match()?);
    request.no_body().await?;
    let now = time_of_write(&context).await?;
    let mut revision = None;
    if tags.is_some() {
        let current = context.store.job(id).await?.ok_or_else(Problem::no_such_job)?;
        check_match(tags.as_ref(), Some(current.revision))?;
        revision = expected(tags.as_ref(), &Map::new(), &current);
    }
    let change_seq = context.store.delete_job(id, revision, now).await?;
    wait_applied(&context, change_seq).await;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// A job from the store or, while that is away, from the ledger; the second value says so.
pub async fn load(context: &Context, id: JobId) -> Result<(Job, bool), Problem> {
    match context.store.job(id).await {
        Ok(Some(job)) => Ok((job, false)),
        Ok(None) => Err(Problem::no_such_job()),
        // A job that the ledger lacks may have been written just before: it is not known that there is none.
        Err(error @ StoreError::Unavailable(_)) => context.engine.ledger_job(id).map(|job| (job, true)).ok_or_else(|| error.into()),
        Err(error) => Err(error.into()),
    }
}

/// The time that a write takes effect; refuses all writes to a store that went back (PROTOCOL A5). New changes would take the numbers of
/// those that it lost, and the ledger would take them for known.
async fn time_of_write(context: &Context) -> Result<UnixMs, Problem> {
    let in_ledger = context.engine.feed_position();
    let in_store = context.store.change_seq().await?;
    if in_store < in_ledger {
        let detail = format!("the database is older than the ledger ({in_store} changes of {in_ledger}); the log says what to do");
        return Err(Problem::unavailable(detail));
    }
    Ok(context.engine.checked_now().await?)
}

/// Waits until the ledger has a change, for a bounded time; false if it does not (PROTOCOL A4).
async fn wait_applied(context: &Context, change_seq: u64) -> bool {
    context.engine.wait_applied(change_seq, Duration::from_millis(APPLIED_MS_MAX)).await
}

/// The revision that a write must find: the one that the client named in a header or in the body.
fn expected(tags: Option<&Tags>, object: &Map<String, Value>, current: &Job) -> Option<Revision> {
    let is_named = matches!(tags, Some(Tags::Revisions(_))) || object.contains_key("revision");
    is_named.then_some(current.revision)
}

async fn answer_written(context: &Context, written: Written) -> Answer {
    let job = &written.job;
    let is_applied = wait_applied(context, job.change_seq).await;
    let last_runs = last_runs(context, std::slice::from_ref(job)).await?;
    let mut view = JobView::new(job, last_runs.get(&job.id), context.now_to_show());
    view.applied = is_applied;
    view.pending_revocations = context.engine.pending_revocations(job.id);
    let mut response = reply::json(if written.is_new { StatusCode::CREATED } else { StatusCode::OK }, &view)?;
    tag(&mut response, job.revision);
    if written.is_new {
        reply::set(&mut response, LOCATION, &format!("/jobs/{}", job.id));
    }
    Ok(response)
}

fn tag(response: &mut Response, revision: Revision) {
    reply::set(response, ETAG, &format!("\"{revision}\""));
}

/// The newest launch of each job: the ledger's, or the store's where that is newer or the only one.
async fn last_runs(context: &Context, jobs: &[Job]) -> Result<HashMap<JobId, Run>, Problem> {
    if jobs.is_empty() {
        return Ok(HashMap::new());
    }
    // The ledger first: what is recorded in between is then found in the store.
    let live: Vec<Run> = jobs.iter().filter_map(|job| context.engine.live_last_run(job.id)).collect();
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let stored = match context.store.last_runs(&ids).await {
        Ok(runs) => runs,
        Err(StoreError::Unavailable(_)) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let mut newest: HashMap<JobId, Run> = stored.into_iter().map(|run| (run.job_id, run)).collect();
    for run in live {
        if newest.get(&run.job_id).is_none_or(|known| (known.scheduled_at, known.id) <= (run.scheduled_at, run.id)) {
            newest.insert(run.job_id, run);
        }
    }
    Ok(newest)
}

fn filter(query: &Query) -> Result<JobFilter, Problem> {
    let label = |text: &str| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (text.to_owned(), None),
    };
    let labels: Vec<_> = query.all("label").map(label).collect();
    if labels.iter().any(|(name, _)| name.is_empty()) {
        return Err(not_allowed("label", "", "`name` or `name=value`"));
    }
    Ok(JobFilter { name: query.one("name")?.map(str::to_owned), is_enabled: query.value("enabled", "true or false")?, labels })
}

fn read_cursor(text: &str) -> Result<JobId, Problem> {
    let id = text.strip_prefix('j').and_then(|id| id.parse().ok());
    id.map(JobId).ok_or_else(|| not_allowed("cursor", text, "one that a page of this list gave"))
}

fn page_of_ledger(jobs: Vec<Job>, filter: &JobFilter, after: Option<JobId>, limit: u32) -> JobPage {
    let name = filter.name.as_ref().map(|name| name.to_lowercase());
    let is_wanted = |job: &Job| {
        name.as_ref().is_none_or(|name| job.spec.name.to_lowercase().contains(name))
            && filter.is_enabled.is_none_or(|is_enabled| job.spec.is_enabled == is_enabled)
            && filter
                .labels
                .iter()
                .all(|(name, value)| job.spec.labels.get(name).is_some_and(|given| value.as_ref().is_none_or(|wanted| given == wanted)))
    };
    let wanted: Vec<Job> = jobs.into_iter().filter(is_wanted).collect();
    let total = wanted.len() as u64;
    let mut page: Vec<Job> = wanted.into_iter().filter(|job| after.is_none_or(|after| job.id > after)).take(limit as usize + 1).collect();
    let has_more = page.len() > limit as usize;
    page.truncate(limit as usize);
    JobPage { jobs: page, total, has_more }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::JobSpec;

    fn jobs() -> Vec<Job> {
        let spec = |id: i64| {
            let mut spec = JobSpec::new(&format!("Job {id}"), "@daily", "true");
            spec.is_enabled = id % 2 == 0;
            spec.labels = [("parity".to_owned(), (id % 2).to_string())].into();
            spec
        };
        let job = |id| Job {
            id: JobId(id),
            revision: 1,
            change_seq: 1,
            created_at: UnixMs(0),
            updated_at: UnixMs(0),
            effective_from: UnixMs(0),
            spec: spec(id),
        };
        (1..=10).map(job).collect()
    }

    #[test]
    fn the_ledgers_jobs_are_filtered_and_paged_like_the_stores() {
        let page = |text: &str, after: Option<i64>, limit| {
            let query = Query::parse(text, &["name", "enabled", "label"]).unwrap();
            let page = page_of_ledger(jobs(), &filter(&query).unwrap(), after.map(JobId), limit);
            (page.jobs.iter().map(|job| job.id.0).collect::<Vec<_>>(), page.total, page.has_more)
        };
        assert_eq!(page("", None, 3), (vec![1, 2, 3], 10, true));
        assert_eq!(page("", Some(7), 3), (vec![8, 9, 10], 10, false));
        assert_eq!(page("name=job%201", None, 9), (vec![1, 10], 2, false));
        assert_eq!(page("enabled=true", None, 2), (vec![2, 4], 5, true));
        assert_eq!(page("label=parity%3D1&enabled=false", None, 9), (vec![1, 3, 5, 7, 9], 5, false));
        assert_eq!(page("label=parity&label=parity=0", Some(6), 9), (vec![8, 10], 5, false));
        assert_eq!(page("label=nope", None, 9), (vec![], 0, false));
    }

    #[test]
    fn a_cursor_is_one_that_a_page_gave() {
        assert_eq!(read_cursor("j7"), Ok(JobId(7)));
        for bad in ["", "7", "jx", "r7", "j7.5", "j99999999999999999999"] {
            assert_eq!(read_cursor(bad).unwrap_err().code, "invalid_parameter", "{bad}");
        }
    }
}
