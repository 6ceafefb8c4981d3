//! What a worker reads of its own directory after a crash: the journal, and files of spooled output.

use std::cell::RefCell;
use std::io::{Seek, Write};

use chrono_flow::agent::fuzz::{read_journal, read_spool, recover_spool};
use chrono_flow::model::RunId;
use tempfile::NamedTempFile;
use uuid::Uuid;

use super::split;

pub const RUN: RunId = RunId(Uuid::from_u128(5));
const SPOOL_HEAD_BYTES: usize = 64;

/// A journal as it is, one whose frames are put right, or a spool's file whose head is.
pub fn run(bytes: &[u8]) {
    let (kind, rest) = split(bytes);
    match kind % 3 {
        0 => drop(read_journal(rest)),
        1 => drop(read_journal(&framed(rest))),
        _ => spool(rest),
    }
}

/// Cuts the bytes into records, each behind a length of one or two bytes, and puts them into frames whose checksums are right.
pub fn framed(mut bytes: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    while let Ok((length, rest)) = postcard::take_from_bytes::<u16>(bytes) {
        let (record, rest) = rest.split_at(rest.len().min(usize::from(length)));
        frames.extend_from_slice(&(record.len() as u32).to_le_bytes());
        frames.extend_from_slice(&crc32fast::hash(record).to_le_bytes());
        frames.extend_from_slice(record);
        bytes = rest;
    }
    frames
}

/// What is kept is 16 bits each for head and tail; then batches, whose checksums are put right as far as their lengths tell where.
fn spool(bytes: &[u8]) {
    let Some((keep, batches)) = bytes.split_at_checked(4) else { return };
    let number = |at: usize| u64::from(u16::from_le_bytes([keep[at], keep[at + 1]]));
    let mut file = b"CFSPOOL\n".to_vec();
    file.extend_from_slice(&1u32.to_le_bytes());
    file.extend_from_slice(RUN.0.as_bytes());
    file.extend_from_slice(&number(0).to_le_bytes());
    file.extend_from_slice(&number(2).to_le_bytes());
    file.resize(SPOOL_HEAD_BYTES - 4, 0);
    file.extend_from_slice(&crc32fast::hash(&file).to_le_bytes());
    let start = file.len();
    file.extend_from_slice(batches);
    put_right(&mut file[start..]);
    thread_local! {
        static FILE: RefCell<NamedTempFile> = RefCell::new(NamedTempFile::new().expect("a temporary file"));
    }
    FILE.with_borrow_mut(|place| {
        let as_file = place.as_file_mut();
        as_file.set_len(0).and_then(|()| as_file.rewind()).and_then(|()| as_file.write_all(&file)).expect("it can be written");
        for (from, bytes_max) in [(0, u64::MAX), (0, 1), (number(0) / 2, 100), (u64::MAX, 7)] {
            let parts = read_spool(place.path(), RUN, from, bytes_max).unwrap_or_default();
            let count: u64 = parts.iter().map(|part| part.bytes.len() as u64).sum();
            assert!(count <= bytes_max && count <= file.len() as u64, "{count} bytes of {bytes_max}");
        }
        let _ = recover_spool(place.path(), RUN);
    });
}

/// Each batch: checksum, bytes of its body, bytes of output, offset; the checksum is of all behind it.
fn put_right(mut batches: &mut [u8]) {
    const HEAD_BYTES: usize = 4 + 4 + 4 + 8;
    while batches.len() >= HEAD_BYTES {
        let body = u32::from_le_bytes([batches[4], batches[5], batches[6], batches[7]]) as usize;
        let Some(end) = body.checked_add(HEAD_BYTES).filter(|end| *end <= batches.len()) else { return };
        let checksum = crc32fast::hash(&batches[4..end]);
        batches[..4].copy_from_slice(&checksum.to_le_bytes());
        batches = &mut std::mem::take(&mut batches)[end..];
    }
}
