//! What the fuzz targets may call of this part: the readers of what clients send.

use crate::model::{Job, JobSpec, UnixMs};

use super::job_json::{self, JobView};
use super::query::{self, Query};
use super::{history, json, schedules};

/// Reads a body of `POST /jobs` or, of a job that is there, of `PUT`.
pub fn read_job(body: &[u8], current: Option<&Job>, now: UnixMs) -> Option<JobSpec> {
    job_json::parse(&json::parse_object(body).ok()?, current, now).ok()
}

/// Reads a body of `PATCH /jobs/{id}`.
pub fn read_patch(body: &[u8], current: &Job, now: UnixMs) -> Option<JobSpec> {
    job_json::parse_patch(json::parse_object(body).ok()?, current, now).ok()
}

/// The answer that shows a job.
pub fn show_job(job: &Job, now: UnixMs) -> Vec<u8> {
    serde_json::to_vec(&JobView::new(job, None, now)).unwrap_or_default()
}

/// Reads a body of `POST /schedules/preview`; answers how many fires it shows.
pub fn read_preview(body: &[u8], now: UnixMs) -> Option<usize> {
    schedules::preview_fires(&json::parse_object(body).ok()?, now).ok().map(|fires| fires.len())
}

/// Reads a query, every parameter of which any list knows, and a path's value.
pub fn read_query(text: &str) {
    let _ = query::decode(text, false);
    let known = ["name", "enabled", "label", "state", "since", "until", "cursor", "limit", "count"];
    let Ok(query) = Query::parse(text, &known) else { return };
    let _ = (query.limit(), history::read_instant(&query, "since"), query.value::<bool>("enabled", ""));
    if let Ok(Some(cursor)) = query.one("cursor") {
        let _ = history::read_cursor(cursor);
    }
    // What is shown as the next page's query reads back.
    let next = Query::parse(&query.with_cursor("j7"), &known);
    assert!(next.is_ok_and(|next| next.one("cursor") == Ok(Some("j7"))), "{text:?}");
}
