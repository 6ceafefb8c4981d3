//! Runs, newest first, from two sources as one list: the ledger's open and unrecorded ones, and the store's recorded ones.

use std::collections::HashSet;

use crate::engine::api::Engine;
use crate::model::{Run, RunId, UnixMs};
use crate::store::{RunCursor, RunFilter, Store, StoreError};

use super::problem::Problem;
use super::query::{Query, not_allowed};

/// Some runs of the history.
#[derive(Debug, PartialEq)]
pub struct Page {
    pub runs: Vec<Run>,
    /// Where the next page begins; none if this is the last.
    pub next: Option<RunCursor>,
    /// The store was away: older runs are missing.
    pub is_from_ledger: bool,
}

/// One run, wherever it is.
pub async fn run(store: &dyn Store, engine: &dyn Engine, id: RunId) -> Result<Option<Run>, StoreError> {
    match known(store, engine, id).await {
        Ok(None) => {
            // Another controller may have answered for it already.
            engine.catch_up().await;
            known(store, engine, id).await
        }
        found => found,
    }
}

async fn known(store: &dyn Store, engine: &dyn Engine, id: RunId) -> Result<Option<Run>, StoreError> {
    // The ledger first: what is recorded in between is then found in the store.
    match engine.live_run(id) {
        Some(run) => Ok(Some(run)),
        None => store.run(id).await,
    }
}

pub async fn page(
    store: &dyn Store,
    engine: &dyn Engine,
    filter: &RunFilter,
    after: Option<RunCursor>,
    limit: u32,
) -> Result<Page, StoreError> {
    let limit_rows = limit as usize;
    // The ledger first, as above; one more than asked for tells whether there is a next page.
    let is_behind = |run: &Run| after.is_none_or(|after| place(run) < after);
    let live: Vec<Run> = engine.live_runs(filter).into_iter().filter(is_behind).take(limit_rows + 1).collect();
    let (stored, is_from_ledger) = match store.runs(filter, after, limit + 1).await {
        Ok(runs) => (runs, false),
        Err(StoreError::Unavailable(_)) => (Vec::new(), true),
        Err(error) => return Err(error),
    };
    let stored_end = stored.last().filter(|_| stored.len() > limit_rows).map(place);
    let (runs, next) = merge(live, stored, |id| engine.live_run(id).is_some(), stored_end, limit_rows);
    Ok(Page { runs, next, is_from_ledger })
}

/// One list of both. Rows of the store that are live are left out: their live version is in `live`, or doesn't match any more.
/// `stored_end` is where the store's rows were cut: what is live behind that waits for the next page.
fn merge(
    live: Vec<Run>,
    stored: Vec<Run>,
    is_live: impl Fn(RunId) -> bool,
    stored_end: Option<RunCursor>,
    limit: usize,
) -> (Vec<Run>, Option<RunCursor>) {
    let live_ids: HashSet<RunId> = live.iter().map(|run| run.id).collect();
    let mut runs: Vec<Run> = live.into_iter().filter(|run| stored_end.is_none_or(|end| place(run) >= end)).collect();
    runs.extend(stored.into_iter().filter(|run| !live_ids.contains(&run.id) && !is_live(run.id)));
    runs.sort_by_key(|run| std::cmp::Reverse(place(run)));
    let is_cut = runs.len() > limit;
    runs.truncate(limit);
    let next = if is_cut { runs.last().map(place) } else { stored_end };
    (runs, next)
}

fn place(run: &Run) -> RunCursor {
    RunCursor { scheduled_at: run.scheduled_at, id: run.id }
}

pub fn write_cursor(cursor: RunCursor) -> String {
    format!("r{}.{}", cursor.scheduled_at.0, cursor.id.0.simple())
}

pub fn read_cursor(text: &str) -> Result<RunCursor, Problem> {
    let parts = text.strip_prefix('r').and_then(|rest| rest.split_once('.'));
    let read =
        |(ms, id): (&str, &str)| Some(RunCursor { scheduled_at: UnixMs(ms.parse().ok()?), id: RunId(uuid::Uuid::try_parse(id).ok()?) });
    parts.and_then(read).ok_or_else(|| not_allowed("cursor", text, "one that a page of this list gave"))
}

/// An instant in a query. Whoever writes `+01:00` there without escaping it gets a blank, which is meant as the plus.
pub fn read_instant(query: &Query, name: &str) -> Result<Option<UnixMs>, Problem> {
    let read = |text: &str| {
        let instant = text.replace(' ', "+").parse();
        instant.map_err(|_| not_allowed(name, text, "an RFC 3339 timestamp such as 2026-01-31T12:00:00Z"))
    };
    query.one(name)?.map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{JobId, RunState, Trigger};

    fn run(at: i64, id: u128, state: RunState) -> Run {
        Run {
            id: RunId(uuid::Uuid::from_u128(id)),
            job_id: JobId(1),
            job_name: "n".into(),
            job_revision: 1,
            trigger: Trigger::Schedule,
            retry_of: None,
            scheduled_at: UnixMs(at),
            attempt: 1,
            state,
            reason: None,
            worker_id: None,
            started_at: None,
            finished_at: None,
            exit_code: None,
            signal: None,
            error: None,
            output_bytes: 0,
            output_truncated: false,
            skipped_from: None,
            skipped_count: None,
        }
    }

    /// Reads all pages of both lists, `limit` rows each.
    fn all_pages(live: &[Run], stored: &[Run], hidden: &[u128], limit: usize) -> Vec<(i64, RunState)> {
        let is_live = |id: RunId| live.iter().any(|run| run.id == id) || hidden.contains(&id.0.as_u128());
        let mut after = None;
        let mut all = Vec::new();
        loop {
            let behind = |runs: &[Run]| -> Vec<Run> {
                runs.iter().filter(|run| after.is_none_or(|after| place(run) < after)).take(limit + 1).cloned().collect()
            };
            let stored_page = behind(stored);
            let stored_end = stored_page.last().filter(|_| stored_page.len() > limit).map(place);
            let (runs, next) = merge(behind(live), stored_page, is_live, stored_end, limit);
            assert!(runs.len() <= limit);
            all.extend(runs.iter().map(|run| (run.scheduled_at.0, run.state)));
            match next {
                None => return all,
                Some(_) => {
                    assert!(next != after, "every page gets further");
                    after = next;
                }
            }
        }
    }

    #[test]
    fn pages_show_every_run_once_and_the_live_version_of_it() {
        use RunState::{Running, Succeeded};
        let live = [run(9, 9, Running), run(6, 6, Succeeded), run(3, 3, Running), run(1, 1, Succeeded)];
        let stored: Vec<Run> = (1..=8).rev().map(|at| run(at, at as u128, RunState::Lost)).collect();
        let expected: Vec<(i64, RunState)> = vec![
            (9, Running),
            (8, RunState::Lost),
            (7, RunState::Lost),
            (6, Succeeded),
            (5, RunState::Lost),
            (4, RunState::Lost),
            (3, Running),
            (2, RunState::Lost),
            (1, Succeeded),
        ];
        for limit in 1..=10 {
            assert_eq!(all_pages(&live, &stored, &[], limit), expected, "limit {limit}");
        }
    }

    #[test]
    fn a_stored_row_whose_live_version_no_longer_matches_is_not_shown() {
        let stored: Vec<Run> = (1..=8).rev().map(|at| run(at, at as u128, RunState::Lost)).collect();
        for limit in 1..=9 {
            let shown = all_pages(&[], &stored, &[8, 7, 6, 3], limit);
            assert_eq!(shown.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [5, 4, 2, 1], "limit {limit}");
        }
    }

    #[test]
    fn a_cursor_reads_back_and_others_are_refused() {
        let cursor = place(&run(1_790_000_000_123, 77, RunState::Running));
        assert_eq!(read_cursor(&write_cursor(cursor)), Ok(cursor));
        for bad in ["", "r", "r1", "r1.", "rx.0", "j7", "1.0", "r1.zz"] {
            assert_eq!(read_cursor(bad).unwrap_err().code, "invalid_parameter", "{bad}");
        }
    }

    #[test]
    fn a_plus_that_became_a_blank_is_still_an_offset() {
        let query = Query::parse("since=2026-01-01T01:00:00+01:00", &["since"]).unwrap();
        assert_eq!(read_instant(&query, "since").unwrap().unwrap().to_string(), "2026-01-01T00:00:00Z");
        let bad = Query::parse("since=yesterday", &["since"]).unwrap();
        assert_eq!(read_instant(&bad, "since").unwrap_err().code, "invalid_parameter");
    }
}
