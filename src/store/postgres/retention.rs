//! What goes from history: whole days, where all of them is beyond retention; of the one day at the limit, the oldest runs in batches.

use uuid::Uuid;

use super::connect::Session;
use super::days::{self, Table};
use super::error::Outcome;
use super::{execute, query, sql, unsigned};
use crate::model::{RunId, RunState, UnixMs};
use crate::store::Retention;

/// Pages of output without a run that one call removes, at most.
const ORPHANS_BATCH_MAX: i64 = 1_000;
/// Days of output that one call drops, at most.
const OUTPUT_DAYS_BATCH_MAX: usize = 64;

pub(super) async fn prune(session: &mut Session, retention: Retention) -> Outcome<u64> {
    let batch = u64::from(retention.batch_max.max(1));
    let mut gone = 0;
    let mut output_before = retention.older_than.map(days::bound);
    while gone < batch {
        let rows = query(&**session, sql!("days_of_runs"), &[]).await?;
        let Some(oldest) = rows.first() else { break };
        let (day, runs, total): (i32, i64, i64) = (oldest.try_get(0)?, oldest.try_get(1)?, oldest.try_get(2)?);
        let excess = retention.runs_max.map_or(0, |max| unsigned(total).unwrap_or(0).saturating_sub(max));
        let is_past = retention.older_than.is_some_and(|limit| days::is_past(day, limit));
        if is_past || (excess > 0 && excess >= unsigned(runs)?) {
            // Output that lies elsewhere goes by the runs' ids, that of their own day below with its partition.
            let dropped = Table::Runs.drop_day(session, day, Some(sql!("output_delete_of_day"))).await?;
            gone += unsigned(dropped.unwrap_or(0))?;
            output_before = output_before.max(Some(day.saturating_add(1)));
            continue;
        }
        let deleted = delete_oldest(session, day, excess, retention.older_than, batch - gone).await?;
        gone += deleted;
        if deleted == 0 {
            break;
        }
    }
    if let Some(before) = output_before {
        drop_output(session, before).await?;
    }
    if let (Some(limit), true) = (retention.older_than, gone < batch) {
        let lowest = RunId::at(limit, 0);
        let day = days::of_output(lowest);
        execute(&**session, sql!("output_delete_orphans"), &[&day, &lowest.0, &ORPHANS_BATCH_MAX]).await?;
    }
    Ok(gone)
}

/// Removes the oldest runs of a day that stays, with their output.
async fn delete_oldest(session: &mut Session, day: i32, excess: u64, older_than: Option<UnixMs>, rows_max: u64) -> Outcome<u64> {
    let states: Vec<&str> = RunState::ALL.iter().map(|state| state.name()).collect();
    let limit = older_than.unwrap_or(UnixMs(i64::MIN));
    let (excess, rows_max) = (i64::try_from(excess).unwrap_or(i64::MAX), i64::try_from(rows_max).unwrap_or(i64::MAX));
    let transaction = session.transaction().await?;
    Table::Runs.lock(&transaction, &[day]).await?;
    let rows = query(&transaction, sql!("run_delete_oldest"), &[&day, &excess, &limit.0, &rows_max, &states]).await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let mut gone: (Vec<Uuid>, Vec<i32>) = Default::default();
    for row in &rows {
        gone.0.push(row.try_get(0)?);
        gone.1.push(row.try_get(1)?);
    }
    execute(&transaction, sql!("output_delete"), &[&gone.0, &gone.1]).await?;
    execute(&transaction, sql!("days_add_to_counts"), &[&vec![day], &vec![-(rows.len() as i64)]]).await?;
    transaction.commit().await?;
    Ok(rows.len() as u64)
}

/// Drops days of output before `before` that no run needs any more.
async fn drop_output(session: &mut Session, before: i32) -> Outcome<()> {
    let rows = query(&**session, sql!("days_of_output_before"), &[&before]).await?;
    for row in rows.iter().take(OUTPUT_DAYS_BATCH_MAX) {
        Table::Output.drop_day(session, row.try_get(0)?, None).await?;
    }
    Ok(())
}
