//! The recorder: writes what has closed into the store, in the order of the ledger, and lets the ledger forget it once it is there
//! (PROTOCOL F). Also keeps history within its bounds.

use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use tokio::time::Instant;

use crate::ledger::{Command, Ledger};
use crate::model::{Run, RunId};
use crate::mutation::{self, Mutation};
use crate::rpc::wire::OUTPUT_PAGE_BYTES_MAX;
use crate::shutdown::Shutdown;
use crate::store::{OutputRecord, RecordBatch, Retention, RunRecord};

use super::feed::note;
use super::handle::Inner;
use super::run_loop::EngineConfig;

/// Rows in one transaction, at most; and bytes of output in it, roughly.
const BATCH_ROWS_MAX: usize = 1_000;
const BATCH_OUTPUT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a full batch is waited for: rows that close together are written together.
const GATHER: Duration = Duration::from_millis(20);
/// While there is nothing to do, the ledger is looked at so often.
const POLL: Duration = Duration::from_millis(50);
/// Wait after a failure, doubling from the first to the second.
const AGAIN_MIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(5);
/// Outputs that are fetched at once: a worker that doesn't answer doesn't hold up the runs of all others.
const FETCHES_AT_ONCE_MAX: usize = 32;
/// A run whose output can't be fetched so often is recorded without it.
const FETCHES_MAX: u32 = 3;
/// How often history is cut to its bounds, and how many runs one step removes.
const RETENTION_EVERY: Duration = Duration::from_secs(60);
const RETENTION_RUNS_MAX: u32 = 1_000;

pub async fn run(inner: Arc<Inner>, config: EngineConfig, shutdown: Shutdown) {
    let mut again = AGAIN_MIN;
    let mut next_retention = Instant::now() + RETENTION_EVERY;
    while !shutdown.is_requested() {
        let ledger = inner.shared.ledger();
        let wait = if !inner.is_licensed() || ledger.unrecorded_len() == 0 {
            POLL
        } else {
            match record(&inner, &ledger).await {
                Ok(rows) => {
                    again = AGAIN_MIN;
                    if rows < BATCH_ROWS_MAX { GATHER } else { Duration::ZERO }
                }
                Err(error) => {
                    log::debug!("the recorder waits: {error}");
                    again = (again * 2).min(AGAIN_MAX);
                    again
                }
            }
        };
        if inner.is_licensed() && Instant::now() >= next_retention {
            next_retention = Instant::now() + RETENTION_EVERY;
            if let Err(error) = cut_history(&inner, &config).await {
                log::warn!("history could not be cut to its bounds: {error}");
            }
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => {}
            () = shutdown.requested() => {}
        }
    }
}

/// Writes the oldest unrecorded rows; answers how many. `Recorded` names entries, so the rows of one entry are recorded as a whole,
/// in several transactions if they are many or have much output.
async fn record(inner: &Inner, ledger: &Ledger) -> anyhow::Result<usize> {
    let mut rest = ledger.unrecorded().peekable();
    let mut ids: Vec<RunId> = Vec::new();
    let Some(first) = rest.peek().map(|(index, _)| *index) else { return Ok(0) };
    let up_to = loop {
        let last = write_rows(inner, &mut rest, &mut ids).await?;
        if rest.peek().is_none_or(|(next, _)| *next != last) {
            break last;
        }
        // The batch ends within an entry: the ones before it are whole, and it comes again; unless it is the first, which is finished now.
        if last > first {
            break last - 1;
        }
    };
    let up_to = up_to + u64::from(mutation::is(Mutation::RecordedBeyond));
    let rows = ids.len();
    failpoint!("before-recorded");
    let applied = inner.proposer.propose(vec![Command::Recorded { up_to }]).await.map_err(|error| anyhow::anyhow!(error))?;
    debug_assert!(applied.index > up_to || mutation::is(Mutation::RecordedBeyond));
    failpoint!("after-recorded");
    let ledger = inner.shared.ledger();
    inner.soft.forget(ids.into_iter().filter(|id| ledger.closed_at(*id).is_none() && ledger.open_run(*id).is_none()));
    Ok(rows)
}

/// Writes as many rows as fit into one transaction; answers the index of the last one.
async fn write_rows<'a>(
    inner: &Inner,
    rest: &mut Peekable<impl Iterator<Item = (u64, &'a Arc<Run>)>>,
    ids: &mut Vec<RunId>,
) -> anyhow::Result<u64> {
    let mut batch = RecordBatch::default();
    let mut output_bytes = 0;
    let mut last = 0;
    let mut fetching = FuturesOrdered::new();
    loop {
        let has_room = |rows: usize| rows < BATCH_ROWS_MAX && output_bytes < BATCH_OUTPUT_BYTES_MAX;
        while fetching.len() < FETCHES_AT_ONCE_MAX
            && has_room(batch.runs.len() + fetching.len())
            && let Some((index, row)) = rest.next()
        {
            fetching.push_back(whole(inner, index, row));
        }
        let Some((index, run, pages)) = fetching.next().await else { break };
        output_bytes += pages.iter().flat_map(|page| &page.parts).map(|part| part.bytes.len()).sum::<usize>();
        batch.output.extend(pages);
        ids.push(run.id);
        batch.runs.push(RunRecord { ledger_index: index, run });
        last = index;
    }
    failpoint!("before-record");
    for aside in note(inner, inner.store.record(batch).await)? {
        log::error!("run {} can't be written to the store and was set aside: {}", aside.run, aside.error);
    }
    Ok(last)
}

/// A row with its output, as far as that can be had.
async fn whole(inner: &Inner, index: u64, row: &Arc<Run>) -> (u64, Run, Vec<OutputRecord>) {
    let mut run = Run::clone(row);
    if run.output_bytes == 0 {
        return (index, run, Vec::new());
    }
    let pages = fetch_output(inner, run.id).await.unwrap_or_else(|why| {
        log::warn!("run {}: its output can't be kept: {why}", run.id);
        run.output_truncated = true;
        Vec::new()
    });
    (index, run, pages)
}

/// All of a run's output. What is large is written to the store page by page, so that no more than a page is in memory.
async fn fetch_output(inner: &Inner, run: RunId) -> Result<Vec<OutputRecord>, String> {
    let mut pages = Vec::new();
    let mut kept_bytes = 0;
    let mut from = 0;
    let mut failures = 0;
    loop {
        match inner.outputs.live(run, from, OUTPUT_PAGE_BYTES_MAX, Duration::ZERO).await {
            Ok(None) => return Ok(pages),
            Ok(Some(page)) => {
                let is_stuck = page.next == from && !page.is_complete;
                if let Some(first) = page.parts.first() {
                    let offset = first.offset;
                    kept_bytes += page.parts.iter().map(|part| part.bytes.len()).sum::<usize>();
                    pages.push(OutputRecord { run, offset, parts: page.parts });
                }
                if page.is_complete {
                    return Ok(pages);
                }
                if is_stuck {
                    return Err("the worker does not come to its end".into());
                }
                from = page.next;
                if kept_bytes >= BATCH_OUTPUT_BYTES_MAX {
                    let batch = RecordBatch { output: std::mem::take(&mut pages), ..RecordBatch::default() };
                    inner.store.record(batch).await.map_err(|error| error.to_string())?;
                    kept_bytes = 0;
                }
            }
            Err(error) => {
                failures += 1;
                if failures >= FETCHES_MAX {
                    return Err(error.to_string());
                }
                tokio::time::sleep(AGAIN_MIN).await;
            }
        }
    }
}

async fn cut_history(inner: &Inner, config: &EngineConfig) -> anyhow::Result<()> {
    let older_than = inner.clock.wall() - i64::from(config.history_days) * 86_400_000;
    let retention = Retention { older_than: Some(older_than), runs_max: Some(config.history_runs), batch_max: RETENTION_RUNS_MAX };
    let mut removed = 0;
    loop {
        let step = note(inner, inner.store.prune_runs(retention).await)?;
        removed += step;
        if step < u64::from(RETENTION_RUNS_MAX) {
            break;
        }
        tokio::task::yield_now().await;
    }
    if removed > 0 {
        log::info!("history: removed {removed} runs beyond {} days or {} runs", config.history_days, config.history_runs);
    }
    Ok(())
}
