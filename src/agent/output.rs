//! The output of one run as it comes: counted, the first and the last of it kept, little of it in memory.
//!
//! Invariants
//! - Each byte has an offset, kept or not. Of `stored` bytes the first `head_max` and the last `tail_max` are kept (`spool::Keep`).
//! - At most one batch is in memory; what is more goes to the spool file. A small output has no file, unless it was slow to come: then it
//!   is written now and again, so that it survives a kill of the agent.
//! - When the file can't be written, output is lost from there on, and counted; the run goes on, and its error says so.

use std::io;

use super::runs::Captured;
use super::spool::{BATCH_BYTES, Batch, Keep, PageReader, Spool, SpoolFile};
use crate::model::{OutputPart, RunId, Stream};
use crate::rpc::wire::{INLINE_OUTPUT_BYTES_MAX, OutputPage};

pub struct Output {
    run: RunId,
    keep: Keep,
    /// Bytes that the command wrote.
    total: u64,
    /// Those of them that were stored when they came: all, unless storing failed.
    stored: u64,
    pending: Batch,
    /// Bytes of `pending` that are in the file already.
    flushed: u64,
    file: Option<SpoolFile>,
    error: Option<String>,
}

impl Output {
    pub fn new(run: RunId, bytes_max: u64) -> Output {
        let keep = Keep::half_and_half(bytes_max);
        Output { run, keep, total: 0, stored: 0, pending: Batch::default(), flushed: 0, file: None, error: None }
    }

    /// Offset behind the last byte.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Adds what was read from a pipe.
    pub fn push(&mut self, spool: &mut Spool, stream: Stream, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        if self.error.is_some() {
            return;
        }
        for piece in bytes.chunks(BATCH_BYTES) {
            self.pending.push(stream, piece);
            self.stored += piece.len() as u64;
            if self.pending.is_full()
                && let Err(error) = self.seal(spool)
            {
                self.error = Some(format!("output behind byte {} was lost: {error}", self.stored));
                return;
            }
        }
    }

    /// Writes the batch in memory for good.
    fn seal(&mut self, spool: &mut Spool) -> io::Result<()> {
        let pending = &self.pending;
        if !pending.is_empty() {
            let file = open(&mut self.file, spool, self.run, self.keep)?;
            spool.write(file, |file| file.write(pending))?;
            self.pending.restart();
            self.flushed = 0;
        }
        Ok(())
    }

    /// Writes what is in memory, without giving it up: for a run that goes on slowly. An error is met again, when it matters.
    pub fn flush(&mut self, spool: &mut Spool) {
        let pending = &self.pending;
        if pending.len() > self.flushed && self.error.is_none() {
            let flushed = open(&mut self.file, spool, self.run, self.keep).and_then(|file| spool.write(file, |file| file.write_open(pending)));
            if flushed.is_ok() {
                self.flushed = pending.len();
            }
        }
    }

    /// A page from `from` on; never complete, as the run goes on.
    pub fn read(&self, from: u64, bytes_max: u64) -> io::Result<OutputPage> {
        let mut parts = Vec::new();
        let mut next = self.keep.next(from, self.stored);
        let mut left = bytes_max;
        if let Some(file) = &self.file {
            next = file.read(&mut parts, from, self.stored, bytes_max)?;
            left = bytes_max.saturating_sub(parts.iter().map(|part| part.bytes.len() as u64).sum());
        }
        let mut reader = PageReader { keep: self.keep, total: self.stored, next, left };
        reader.take(&mut parts, &self.pending);
        Ok(OutputPage { parts, next: reader.next.min(self.stored.max(from)), is_complete: false })
    }

    /// The end: what was kept stays inline if it is small and there is room, else in the file.
    pub fn finish(mut self, spool: &mut Spool) -> Captured {
        let kept = self.keep.bytes(self.stored);
        let mut captured = Captured {
            bytes: self.total,
            is_truncated: kept < self.total,
            inline: None,
            spooled_bytes: 0,
            error: None,
        };
        if kept <= INLINE_OUTPUT_BYTES_MAX as u64 && (spool.has_inline_room(kept) || kept == 0) {
            match self.read(0, kept) {
                Ok(page) => captured.inline = Some(page.parts),
                Err(error) => self.lose_all(&error),
            }
        } else if let Err(error) = self.seal(spool) {
            self.error.get_or_insert(format!("output behind byte {} was lost: {error}", self.pending.offset));
            captured.is_truncated = true;
        }
        if let Some(file) = self.file.take() {
            if captured.inline.is_some() || file.end() == 0 {
                spool.remove(self.run, file.disk_bytes());
                captured.inline.get_or_insert_default();
            } else {
                captured.spooled_bytes = file.disk_bytes();
            }
        } else {
            captured.inline.get_or_insert_default();
        }
        captured.is_truncated |= self.error.is_some();
        captured.error = self.error;
        captured
    }

    fn lose_all(&mut self, error: &io::Error) {
        self.error.get_or_insert(format!("output was lost: {error}"));
    }

    /// The run came to nothing: nothing is kept.
    pub fn discard(self, spool: &mut Spool) {
        if let Some(file) = self.file {
            spool.remove(self.run, file.disk_bytes());
        }
    }
}

fn open<'a>(file: &'a mut Option<SpoolFile>, spool: &mut Spool, run: RunId, keep: Keep) -> io::Result<&'a mut SpoolFile> {
    if file.is_none() {
        *file = Some(spool.create(run, keep)?);
    }
    file.as_mut().ok_or_else(|| io::Error::other("no spool file"))
}

/// A page of a small output.
pub fn read_inline(parts: &[OutputPart], from: u64, bytes_max: u64) -> OutputPage {
    let mut page = OutputPage { parts: Vec::new(), next: from, is_complete: true };
    let mut left = bytes_max;
    for part in parts.iter().filter(|part| part.end() > from) {
        if left == 0 {
            page.is_complete = false;
            return page;
        }
        let start = from.max(part.offset);
        let stop = part.end().min(start + left);
        super::spool::append_part(&mut page.parts, start, part.stream, &part.bytes[(start - part.offset) as usize..(stop - part.offset) as usize]);
        left -= stop - start;
        page.next = stop;
        page.is_complete = stop == part.end();
    }
    page
}

/// A page of a spool file whose run has ended. Blocks.
pub fn read_spooled(path: &std::path::Path, run: RunId, from: u64, bytes_max: u64) -> io::Result<OutputPage> {
    let file = SpoolFile::open(path, run, false)?;
    let (mut parts, total) = (Vec::new(), file.end());
    let next = file.read(&mut parts, from, total, bytes_max)?;
    Ok(OutputPage { parts, next, is_complete: next >= total })
}

/// What an earlier life has captured of a run that it could not finish.
pub fn recover(spool: &mut Spool, run: RunId) -> Captured {
    let Ok(file) = SpoolFile::open(&spool.path(run), run, true) else {
        return Captured { inline: Some(Vec::new()), is_truncated: true, ..Captured::default() };
    };
    let total = file.end();
    let kept = file.keep().bytes(total);
    let mut captured = Captured { bytes: total, is_truncated: true, ..Captured::default() };
    spool.hold_file(file.disk_bytes());
    let mut parts = Vec::new();
    if kept <= INLINE_OUTPUT_BYTES_MAX as u64 && file.read(&mut parts, 0, total, kept).is_ok() {
        captured.inline = Some(parts);
        spool.remove(run, file.disk_bytes());
    } else {
        captured.spooled_bytes = file.disk_bytes();
    }
    captured
}
