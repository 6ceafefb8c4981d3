//! What all stores write in the same form: specifications as JSON, pages of output as postcard.

use super::{OutputRecord, Result, StoreError, StoredOutput};
use crate::model::{JobId, JobSpec, OutputPart, RunId};

/// The largest page of output that can be written, encoded. Pages are about a MiB.
pub(super) const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The specification as JSON that reads back as the same; what would not (an instant outside of the calendar) is not written.
pub(super) fn encode_spec(spec: &JobSpec) -> Result<String> {
    let text = serde_json::to_string(spec).map_err(|error| StoreError::Internal(format!("a specification can't be written: {error}")))?;
    match serde_json::from_str::<JobSpec>(&text) {
        Ok(read) if read == *spec => Ok(text),
        Ok(_) => Err(StoreError::Internal("a specification would not read back as it is".into())),
        Err(error) => Err(StoreError::Internal(format!("a specification would not read back: {error}"))),
    }
}

pub(super) fn decode_spec(job: JobId, text: &str) -> Result<JobSpec> {
    serde_json::from_str(text).map_err(|error| StoreError::Internal(format!("the specification of job {job} can't be read: {error}")))
}

/// The parts of a page; an error is of this page, whatever is tried.
pub(super) fn encode_page(page: &OutputRecord) -> std::result::Result<Vec<u8>, String> {
    let parts = postcard::to_stdvec(&page.parts).map_err(|error| error.to_string())?;
    if parts.len() > PAGE_BYTES_MAX {
        return Err(format!("a page of {} bytes; at most {PAGE_BYTES_MAX} can be written", parts.len()));
    }
    Ok(parts)
}

/// Collects parts from an offset on, the first and the last cut so that they start there and are `bytes_max` bytes together at most.
pub(super) struct OutputReader {
    run: RunId,
    offset: u64,
    room: usize,
    output: StoredOutput,
}

impl OutputReader {
    pub(super) fn new(run: RunId, offset: u64, bytes_max: u32) -> OutputReader {
        OutputReader { run, offset, room: (bytes_max as usize).max(1), output: StoredOutput::default() }
    }

    /// Takes the next page, which begins at `at`. False: no more is wanted.
    pub(super) fn take(&mut self, at: i64, page: &[u8]) -> Result<bool> {
        let parts: Vec<OutputPart> = postcard::from_bytes(page)
            .map_err(|error| StoreError::Internal(format!("run {}: its output at {at} can't be read: {error}", self.run)))?;
        for mut part in parts.into_iter().filter(|part| part.end() > self.offset && !part.bytes.is_empty()) {
            if self.room == 0 {
                self.output.has_more = true;
                return Ok(false);
            }
            if part.offset < self.offset {
                part.bytes.drain(..(self.offset - part.offset) as usize);
                part.offset = self.offset;
            }
            if part.bytes.len() > self.room {
                part.bytes.truncate(self.room);
                self.output.has_more = true;
            }
            self.room -= part.bytes.len();
            self.output.parts.push(part);
            if self.output.has_more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn finish(self) -> StoredOutput {
        self.output
    }
}
