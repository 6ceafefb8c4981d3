//! What the fuzz targets may call of this part: the readers of what a crash or a disk may have damaged.

use std::path::Path;

use super::recover::Past;
use super::runs::Record;
use super::spool::SpoolFile;
use super::{journal, output};
use crate::model::{OutputPart, RunId};

/// Reads frames as they stand behind the head of a journal's file, and puts their records together; answers how many there are.
pub fn read_journal(bytes: &[u8]) -> usize {
    let mut records: Vec<Record> = Vec::new();
    let _ = journal::read_frames(bytes, &mut records);
    let count = records.len();
    let _ = Past::of(records).session_record();
    count
}

/// Reads a spool's file as a page that a leader asks for; none if it is no such file.
pub fn read_spool(path: &Path, run: RunId, from: u64, bytes_max: u64) -> Option<Vec<OutputPart>> {
    output::read_spooled(path, run, from, bytes_max).ok().map(|page| page.parts)
}

/// The same as an agent does after a crash, which makes an end to what is torn; answers how many bytes the file has.
pub fn recover_spool(path: &Path, run: RunId) -> Option<u64> {
    SpoolFile::recover(path, run).ok().map(|file| file.end())
}
