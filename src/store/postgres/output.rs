//! Captured output, in SQL: pages of parts.

use deadpool_postgres::Transaction;

use super::connect::Session;
use super::days;
use super::error::Outcome;
use super::{execute, query, signed, sql};
use crate::model::RunId;
use crate::store::StoredOutput;
use crate::store::codec::OutputReader;

/// Pages (of about a MiB) that are fetched at once.
const PAGES_AT_ONCE: i64 = 4;

/// A page on its way into the table.
pub(super) struct Page {
    pub(super) day: i32,
    pub(super) run: RunId,
    pub(super) offset: i64,
    pub(super) parts: Vec<u8>,
}

pub(super) async fn write(transaction: &Transaction<'_>, pages: &[Page]) -> Outcome<()> {
    let days: Vec<i32> = pages.iter().map(|page| page.day).collect();
    let ids: Vec<uuid::Uuid> = pages.iter().map(|page| page.run.0).collect();
    let offsets: Vec<i64> = pages.iter().map(|page| page.offset).collect();
    let parts: Vec<&[u8]> = pages.iter().map(|page| &page.parts[..]).collect();
    execute(transaction, sql!("output_put"), &[&days, &ids, &offsets, &parts]).await.map(drop)
}

pub(super) async fn read(session: &Session, run: RunId, offset: u64, bytes_max: u32) -> Outcome<StoredOutput> {
    let mut reader = OutputReader::new(run, offset, bytes_max);
    let Ok(from) = signed(offset) else { return Ok(reader.finish()) };
    let (day, mut behind) = (days::of_output(run), 0);
    loop {
        let pages = query(&**session, sql!("output_from"), &[&day, &run.0, &from, &behind, &PAGES_AT_ONCE]).await?;
        for page in &pages {
            let at: i64 = page.try_get(0)?;
            if !reader.take(at, page.try_get(1)?)? {
                return Ok(reader.finish());
            }
            behind = at.saturating_add(1);
        }
        if pages.len() < PAGES_AT_ONCE as usize {
            return Ok(reader.finish());
        }
    }
}
