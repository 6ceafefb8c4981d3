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

    /// Offset behind the last byte that can be read.
    pub fn readable(&self) -> u64 {
        self.stored
    }

    /// Adds what was read from a pipe.
    pub fn push(&mut self, spool: &mut Spool, stream: Stream, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        if self.error.is_some() || self.keep.bytes(u64::MAX) == 0 {
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
            let flushed =
                open(&mut self.file, spool, self.run, self.keep).and_then(|file| spool.write(file, |file| file.write_open(pending)));
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
        let mut captured = Captured { bytes: self.total, is_truncated: kept < self.total, inline: None, spooled_bytes: 0, error: None };
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
        super::spool::append_part(
            &mut page.parts,
            start,
            part.stream,
            &part.bytes[(start - part.offset) as usize..(stop - part.offset) as usize],
        );
        left -= stop - start;
        page.next = stop;
        page.is_complete = stop == part.end();
    }
    page
}

/// A page of a spool file whose run has ended. Blocks.
pub fn read_spooled(path: &std::path::Path, run: RunId, from: u64, bytes_max: u64) -> io::Result<OutputPage> {
    let file = SpoolFile::open(path, run)?;
    let (mut parts, total) = (Vec::new(), file.end());
    let next = file.read(&mut parts, from, total, bytes_max)?;
    Ok(OutputPage { parts, next, is_complete: next >= total })
}

/// What an earlier life has captured of a run that it could not finish.
pub fn recover(spool: &mut Spool, run: RunId) -> Captured {
    let Ok(file) = SpoolFile::recover(&spool.path(run), run) else {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::spool;
    use uuid::Uuid;

    const RUN: RunId = RunId(Uuid::from_u128(5));

    /// The byte at an offset, and its stream, in these tests.
    fn byte(offset: u64) -> u8 {
        (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
    }

    /// Pushes bytes in pieces of such lengths, the streams taking turns; says for each byte where it came from.
    fn push(output: &mut Output, spool: &mut Spool, lengths: impl IntoIterator<Item = usize>) -> Vec<Stream> {
        let mut streams = Vec::new();
        for (index, length) in lengths.into_iter().enumerate() {
            let stream = if index % 2 == 0 { Stream::Stdout } else { Stream::Stderr };
            let start = output.total;
            let bytes: Vec<u8> = (start..start + length as u64).map(byte).collect();
            output.push(spool, stream, &bytes);
            streams.resize(streams.len() + length, stream);
            if index % 7 == 3 {
                output.flush(spool);
            }
        }
        streams
    }

    fn check(parts: &[OutputPart], streams: &[Stream], keep: Keep) {
        let total = streams.len() as u64;
        let mut expected = keep.next(0, total);
        for part in parts {
            assert_eq!(part.offset, expected);
            for (index, got) in part.bytes.iter().enumerate() {
                let offset = part.offset + index as u64;
                assert_eq!((*got, part.stream), (byte(offset), streams[offset as usize]), "at {offset}");
            }
            expected = keep.next(part.end(), total);
        }
        assert_eq!(expected.max(total), expected, "all of it was there");
    }

    fn spool(dir: &tempfile::TempDir, bytes_max: u64) -> Spool {
        Spool::open(dir.path().join("spool"), bytes_max, 1 << 20).unwrap()
    }

    fn files(spool: &Spool) -> usize {
        std::fs::read_dir(spool.path(RUN).parent().unwrap()).unwrap().count()
    }

    /// Pages until complete; checks that no page is larger than asked.
    fn read_all(mut read: impl FnMut(u64) -> OutputPage) -> Vec<OutputPart> {
        let (mut parts, mut from) = (Vec::new(), 0);
        loop {
            let page = read(from);
            for part in page.parts {
                spool::append_part(&mut parts, part.offset, part.stream, &part.bytes);
            }
            if page.is_complete || page.next == from {
                return parts;
            }
            from = page.next;
        }
    }

    #[test]
    fn first_and_last_bytes_are_kept_live_and_at_the_end_whatever_the_pieces() {
        for (bytes_max, lengths) in [
            (1_000_000, vec![1; 3_000]),
            (10_000, vec![1; 30_000]),
            (100, vec![40, 3, 70_000, 1, 9]),
            (99, vec![300_000]),
            (0, vec![10, 70_000]),
            (1, vec![10, 70_000]),
            (300_000, vec![5_000, 60_000, 1, 65_536, 65_536, 65_536, 65_536, 65_536, 65_536, 3, 200_000, 17]),
            (2_000_000, (0..400).map(|n| n * 37 % 20_000 + 1).collect()),
            (200_000, (0..4000).map(|n| n * 7 % 100 + 1).collect()),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut spool = spool(&dir, 1 << 30);
            let mut output = Output::new(RUN, bytes_max);
            let streams = push(&mut output, &mut spool, lengths.clone());
            let (keep, total) = (Keep::half_and_half(bytes_max), streams.len() as u64);
            if bytes_max > 0 {
                check(&read_all(|from| output.read(from, 7_777).unwrap()), &streams, keep);
            }
            output.flush(&mut spool);
            let recovered = recover_copy(&dir, bytes_max.min(total) > 0 && output.file.is_some());
            let captured = output.finish(&mut spool);
            assert_eq!((captured.bytes, captured.is_truncated), (total, total > bytes_max), "{bytes_max} {lengths:?}");
            match &captured.inline {
                Some(parts) => {
                    check(parts, &streams, keep);
                    check(&read_all(|from| read_inline(parts, from, 777)), &streams, keep);
                    assert_eq!((files(&spool), captured.spooled_bytes), (0, 0));
                }
                None => {
                    assert!(bytes_max.min(total) > INLINE_OUTPUT_BYTES_MAX as u64);
                    let most = 2 * total.min(bytes_max + bytes_max / 2) + 400_000;
                    assert!(captured.spooled_bytes < most, "{} of {bytes_max}", captured.spooled_bytes);
                    check(&read_all(|from| read_spooled(&spool.path(RUN), RUN, from, 7_777).unwrap()), &streams, keep);
                }
            }
            if let Some(parts) = recovered {
                check(&parts, &streams, keep);
            }
        }
    }

    /// What a later life would find if this one were killed now.
    fn recover_copy(dir: &tempfile::TempDir, has_file: bool) -> Option<Vec<OutputPart>> {
        let copy = tempfile::tempdir().unwrap();
        let mut spool = spool(&copy, 1 << 30);
        let from = spool::path(&dir.path().join("spool"), RUN);
        assert_eq!(from.exists(), has_file);
        std::fs::copy(from, spool.path(RUN)).ok()?;
        let captured = recover(&mut spool, RUN);
        Some(captured.inline.unwrap_or_else(|| read_all(|from| read_spooled(&spool.path(RUN), RUN, from, 100_000).unwrap())))
    }

    #[test]
    fn a_torn_piece_is_left_out_and_what_is_before_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = spool(&dir, 1 << 30);
        let mut output = Output::new(RUN, 1_000_000);
        push(&mut output, &mut spool, [65_536, 65_536, 1000]);
        output.flush(&mut spool);
        let path = spool.path(RUN);
        let length = std::fs::metadata(&path).unwrap().len();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
        let captured = recover(&mut spool, RUN);
        assert_eq!((captured.bytes, captured.is_truncated), (131_072, true));
        assert_eq!(read_spooled(&path, RUN, 131_000, 1_000_000).unwrap().parts[0].bytes.len(), 72);
    }

    #[test]
    fn a_full_spool_loses_output_from_there_on_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = spool(&dir, 100_000);
        let mut output = Output::new(RUN, 10_000_000);
        let streams = push(&mut output, &mut spool, vec![65_536; 10]);
        assert!(spool.trouble().is_some());
        let captured = output.finish(&mut spool);
        assert_eq!((captured.bytes, captured.is_truncated), (655_360, true));
        assert!(captured.error.as_ref().unwrap().contains("the worker's spool has reached its limit"), "{captured:?}");
        let kept = read_all(|from| read_spooled(&spool.path(RUN), RUN, from, 100_000).unwrap());
        let bytes: usize = kept.iter().map(|part| part.bytes.len()).sum();
        assert_eq!(bytes, 131_072);
        check(&kept, &streams[..bytes], Keep::half_and_half(10_000_000));
        spool.remove(RUN, captured.spooled_bytes);
        assert!(spool.trouble().is_none());
        assert_eq!(files(&spool), 0);
    }

    #[test]
    fn small_outputs_go_to_files_when_too_many_are_held() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path().join("spool"), 1 << 20, 100).unwrap();
        spool.hold_inline(60);
        let mut output = Output::new(RUN, 1000);
        push(&mut output, &mut spool, [50]);
        let captured = output.finish(&mut spool);
        assert_eq!((captured.inline, files(&spool)), (None, 1));
    }

    #[test]
    fn orphans_are_removed_and_foreign_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = spool(&dir, 1 << 20);
        std::fs::write(spool.path(RUN), [0; 200]).unwrap();
        assert!(read_spooled(&spool.path(RUN), RUN, 0, 10).is_err());
        assert_eq!(recover(&mut spool, RUN).inline, Some(Vec::new()));
        assert_eq!(spool.remove_orphans(&std::collections::BTreeSet::from([RUN])).unwrap(), 0);
        assert_eq!(spool.remove_orphans(&std::collections::BTreeSet::new()).unwrap(), 1);
    }
}
