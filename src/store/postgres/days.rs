//! The days of history, each a partition of `runs` and one of `run_output`: made when the first row of a day comes, dropped whole.
//!
//! A register of each says which are there. Who writes rows locks the register's rows of their days first, and who drops a day takes its
//! row away first, so that no day goes while it is written. Making and dropping are serial, under an advisory lock.

use deadpool_postgres::Transaction;
use jiff::SignedDuration;
use jiff::civil::Date;

use super::connect::Session;
use super::error::{Fault, Outcome};
use super::{execute, query, sql};
use crate::model::{RunId, UnixMs};
use crate::store::StoreError;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// The day of output whose run's id tells no time.
pub(super) const UNDATED: i32 = i32::MIN;
/// The advisory lock of who makes or drops partitions: "CrFl" and 2.
const PARTITIONS_LOCK: i64 = 0x4372_466C_0000_0002;
const EPOCH: Date = Date::constant(1970, 1, 1);

/// Days since the Unix epoch; none for an instant that is outside of the calendar.
pub(super) fn of(instant: UnixMs) -> Option<i32> {
    let day = i32::try_from(instant.0.div_euclid(DAY_MS)).ok()?;
    date(day).map(|_| day)
}

/// As `of`, for bounds: beyond what a day can be, the nearest one.
pub(super) fn bound(instant: UnixMs) -> i32 {
    instant.0.div_euclid(DAY_MS).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

/// Where the output of a run lies: by the instant in an id of version 7.
pub(super) fn of_output(run: RunId) -> i32 {
    if run.0.get_version_num() != 7 {
        return UNDATED;
    }
    let ms = (run.0.as_u128() >> 80) as i64; // 48 bits
    of(UnixMs(ms)).unwrap_or(UNDATED)
}

/// Whether all of the day lies before the instant.
pub(super) fn is_past(day: i32, instant: UnixMs) -> bool {
    (i64::from(day) + 1) * DAY_MS <= instant.0
}

fn date(day: i32) -> Option<Date> {
    EPOCH.checked_add(SignedDuration::from_hours(i64::from(day) * 24)).ok()
}

/// One of the two tables that lie in days.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Table {
    Runs,
    Output,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Table::Runs => "runs",
            Table::Output => "run_output",
        }
    }

    fn register(self) -> &'static str {
        match self {
            Table::Runs => "run_days",
            Table::Output => "output_days",
        }
    }

    /// The name of a day's partition, quoted; it tells the date.
    fn partition(self, day: i32) -> Outcome<String> {
        let date = date(day).ok_or_else(|| StoreError::Internal(format!("day {day} is outside of the calendar")))?;
        Ok(format!("\"{}_{}\"", self.name(), date.to_string().replace('-', "_")))
    }

    /// Locks the days, which are sorted, against being dropped.
    ///
    /// # Errors
    /// `NoPartition`: one of them is not there.
    pub(super) async fn lock(self, transaction: &Transaction<'_>, days: &[i32]) -> Outcome<()> {
        let days: Vec<i32> = days.iter().copied().filter(|day| *day != UNDATED).collect();
        if days.is_empty() {
            return Ok(());
        }
        let text = if self == Table::Runs { sql!("days_lock_runs") } else { sql!("days_lock_output") };
        let found = query(transaction, text, &[&days]).await?.len();
        if found == days.len() { Ok(()) } else { Err(Fault::NoPartition) }
    }

    /// Makes what is missing of the days.
    pub(super) async fn create(self, session: &mut Session, days: &[i32]) -> Outcome<()> {
        let transaction = session.transaction().await?;
        execute(&transaction, "SELECT pg_advisory_xact_lock($1)", &[&PARTITIONS_LOCK]).await?;
        let (table, register) = (self.name(), self.register());
        for day in days.iter().copied().filter(|day| *day != UNDATED) {
            let columns = if self == Table::Runs { "(day, runs) VALUES ($1, 0)" } else { "(day) VALUES ($1)" };
            let is_new = execute(&transaction, &format!("INSERT INTO {register} {columns} ON CONFLICT DO NOTHING"), &[&day]).await? == 1;
            if is_new {
                // Attached, not made in place: that lets readers and writers of the other days go on.
                let partition = self.partition(day)?;
                let end = i64::from(day) + 1;
                let make = format!(
                    "CREATE TABLE {partition} (LIKE {table} INCLUDING ALL);
                     ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ({day}) TO ({end})"
                );
                transaction.batch_execute(&make).await?;
                log::info!("history: partition {partition} was made");
            }
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Drops a day, with `before` done first in the same transaction. Answers whether it was there; of runs, how many rows it had.
    pub(super) async fn drop_day(self, session: &mut Session, day: i32, before: Option<&str>) -> Outcome<Option<i64>> {
        let transaction = session.transaction().await?;
        execute(&transaction, "SELECT pg_advisory_xact_lock($1)", &[&PARTITIONS_LOCK]).await?;
        let rows = if self == Table::Runs { "runs" } else { "0::bigint" };
        let taken = query(&transaction, &format!("DELETE FROM {} WHERE day = $1 RETURNING {rows}", self.register()), &[&day]).await?;
        let Some(row) = taken.first() else { return Ok(None) };
        let rows: i64 = row.try_get(0)?;
        if let Some(before) = before {
            execute(&transaction, before, &[&day]).await?;
        }
        let partition = self.partition(day)?;
        transaction.batch_execute(&format!("DROP TABLE {partition}")).await?;
        transaction.commit().await?;
        log::info!("history: partition {partition} was dropped");
        Ok(Some(rows))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_instant_belongs_to_its_day_in_utc() {
        for (ms, day) in [(0, 0), (-1, -1), (DAY_MS - 1, 0), (DAY_MS, 1), (-DAY_MS, -1)] {
            assert_eq!(of(UnixMs(ms)), Some(day), "{ms}");
        }
        assert_eq!(of(UnixMs(i64::MAX)), None);
        assert_eq!(Table::Runs.partition(20_717).unwrap(), "\"runs_2026_09_21\"");
        assert!(is_past(0, UnixMs(DAY_MS)) && !is_past(0, UnixMs(DAY_MS - 1)));
    }

    #[test]
    fn output_lies_where_the_id_says() {
        assert_eq!(of_output(RunId::at(UnixMs(DAY_MS * 7 + 5), u128::MAX)), 7);
        assert_eq!(of_output(RunId(Uuid::new_v5(&Uuid::nil(), b"key"))), UNDATED);
        assert_eq!(of_output(RunId::at(UnixMs(i64::MAX), 0)), UNDATED, "the year 10889");
    }
}
