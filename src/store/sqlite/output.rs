//! Captured output, in SQL: pages of parts. Each function runs inside a transaction that its caller began.

use rusqlite::{Connection, params};

use super::runs::RowError;
use super::{signed, sql};
use crate::model::{OutputPart, RunId};
use crate::store::{OutputRecord, Result, StoreError, StoredOutput};

/// The largest page that can be written, encoded. Pages are about a MiB; the table checks the same number.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

pub(super) fn write(connection: &Connection, page: &OutputRecord) -> std::result::Result<(), RowError> {
    let offset = i64::try_from(page.offset).map_err(|_| RowError::Row(format!("offset {} is beyond what a column holds", page.offset)))?;
    let parts = postcard::to_stdvec(&page.parts).map_err(|error| RowError::Row(error.to_string()))?;
    if parts.len() > PAGE_BYTES_MAX {
        return Err(RowError::Row(format!("a page of {} bytes; at most {PAGE_BYTES_MAX} can be written", parts.len())));
    }
    connection.prepare_cached(sql!("output_put"))?.execute(params![page.run.0.as_bytes(), offset, parts])?;
    Ok(())
}

/// Parts from `offset` on, the first and the last cut so that they start there and are `bytes_max` bytes together at most.
pub(super) fn read(connection: &Connection, run: RunId, offset: u64, bytes_max: u32) -> Result<StoredOutput> {
    let mut output = StoredOutput::default();
    let Ok(from) = signed(offset) else { return Ok(output) };
    let mut room = (bytes_max as usize).max(1);
    let mut query = connection.prepare_cached(sql!("output_from"))?;
    let mut pages = query.query(params![run.0.as_bytes(), from])?;
    while let Some(page) = pages.next()? {
        let at: i64 = page.get(0)?;
        let parts: Vec<OutputPart> = postcard::from_bytes(page.get_ref(1)?.as_blob().map_err(|error| unreadable(run, at, &error))?)
            .map_err(|error| unreadable(run, at, &error))?;
        for mut part in parts.into_iter().filter(|part| part.end() > offset && !part.bytes.is_empty()) {
            if room == 0 {
                output.has_more = true;
                return Ok(output);
            }
            if part.offset < offset {
                part.bytes.drain(..(offset - part.offset) as usize);
                part.offset = offset;
            }
            if part.bytes.len() > room {
                part.bytes.truncate(room);
                output.has_more = true;
            }
            room -= part.bytes.len();
            output.parts.push(part);
            if output.has_more {
                return Ok(output);
            }
        }
    }
    Ok(output)
}

fn unreadable(run: RunId, at: i64, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Internal(format!("run {run}: its output at {at} can't be read: {error}"))
}
