//! Captured output, in SQL: pages of parts. Each function runs inside a transaction that its caller began.

use rusqlite::{Connection, params};

use super::runs::RowError;
use super::{signed, sql};
use crate::model::RunId;
use crate::store::codec::{OutputReader, encode_page};
use crate::store::{OutputRecord, Result, StoreError, StoredOutput};

pub(super) fn write(connection: &Connection, page: &OutputRecord) -> std::result::Result<(), RowError> {
    let offset = i64::try_from(page.offset).map_err(|_| RowError::Row(format!("offset {} is beyond what a column holds", page.offset)))?;
    let parts = encode_page(page).map_err(RowError::Row)?;
    connection.prepare_cached(sql!("output_put"))?.execute(params![page.run.0.as_bytes(), offset, parts])?;
    Ok(())
}

/// Parts from `offset` on, the first and the last cut so that they start there and are `bytes_max` bytes together at most.
pub(super) fn read(connection: &Connection, run: RunId, offset: u64, bytes_max: u32) -> Result<StoredOutput> {
    let mut reader = OutputReader::new(run, offset, bytes_max);
    let Ok(from) = signed(offset) else { return Ok(reader.finish()) };
    let mut query = connection.prepare_cached(sql!("output_from"))?;
    let mut pages = query.query(params![run.0.as_bytes(), from])?;
    while let Some(page) = pages.next()? {
        let at: i64 = page.get(0)?;
        let bytes = page.get_ref(1)?.as_blob().map_err(|error| StoreError::Internal(format!("run {run}: its output at {at}: {error}")))?;
        if !reader.take(at, bytes)? {
            break;
        }
    }
    Ok(reader.finish())
}
