//! A batch of output: consecutive bytes with their streams, in memory as it is collected, on disk as one checksummed piece.

use std::io;

use crate::model::{OutputPart, Stream};

/// Bytes of output that a batch collects before it is written.
pub const BATCH_BYTES: usize = 64 * 1024;
/// Changes of stream that a batch collects before it is written.
const BATCH_SEGMENTS_MAX: usize = 8 * 1024;
/// Checksum, bytes of the body, bytes of output in it, offset.
pub(super) const HEADER_BYTES: usize = 4 + 4 + 4 + 8;
/// No batch has a longer body: the last read may go beyond `BATCH_BYTES` by as much again, and a segment costs at most 4 bytes.
pub(super) const BODY_BYTES_MAX: usize = 2 * BATCH_BYTES + 4 * (BATCH_SEGMENTS_MAX + 1);

/// Consecutive bytes of output and the streams they came from.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    pub offset: u64,
    segments: Vec<(Stream, u32)>,
    data: Vec<u8>,
}

/// What stands before a batch on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BatchHeader {
    checksum: u32,
    pub body_bytes: u32,
    pub output_bytes: u32,
    pub offset: u64,
}

impl Batch {
    pub fn at(offset: u64) -> Batch {
        Batch { offset, ..Batch::default() }
    }

    pub fn len(&self) -> u64 {
        self.data.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    pub fn end(&self) -> u64 {
        self.offset + self.len()
    }

    pub fn is_full(&self) -> bool {
        self.data.len() >= BATCH_BYTES || self.segments.len() >= BATCH_SEGMENTS_MAX
    }

    /// Adds bytes, at most `BATCH_BYTES` at a time.
    pub fn push(&mut self, stream: Stream, bytes: &[u8]) {
        match self.segments.last_mut() {
            Some((last, length)) if *last == stream => *length += bytes.len() as u32,
            _ => self.segments.push((stream, bytes.len() as u32)),
        }
        self.data.extend_from_slice(bytes);
    }

    /// Empties the batch to go on at its end; its memory stays.
    pub fn restart(&mut self) {
        self.offset = self.end();
        self.segments.clear();
        self.data.clear();
    }

    /// The segments with their offsets.
    pub fn segments(&self) -> impl Iterator<Item = (u64, Stream, &[u8])> {
        let mut at = 0;
        self.segments.iter().map(move |(stream, length)| {
            let start = at;
            at += *length as usize;
            (self.offset + start as u64, *stream, &self.data[start..at])
        })
    }

    /// Header and body, for the disk.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.reserve(self.data.len() + 4 * self.segments.len());
        for (_, stream, data) in self.segments() {
            let mut number = (data.len() as u64) << 1 | u64::from(stream == Stream::Stderr);
            while number >= 0x80 {
                bytes.push(number as u8 | 0x80);
                number >>= 7;
            }
            bytes.push(number as u8);
            bytes.extend_from_slice(data);
        }
        let body_bytes = (bytes.len() - HEADER_BYTES) as u32;
        bytes[4..8].copy_from_slice(&body_bytes.to_le_bytes());
        bytes[8..12].copy_from_slice(&(self.data.len() as u32).to_le_bytes());
        bytes[12..20].copy_from_slice(&self.offset.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads what `encode` wrote.
    pub(super) fn decode(header: BatchHeader, bytes: &[u8]) -> io::Result<Batch> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a piece of spooled output is damaged");
        if crc32fast::hash(&bytes[4..]) != header.checksum {
            return Err(damaged());
        }
        let mut batch = Batch::at(header.offset);
        let mut rest = &bytes[HEADER_BYTES..];
        while !rest.is_empty() {
            let (mut number, mut shift) = (0u64, 0);
            loop {
                let (byte, after) = rest.split_first().ok_or_else(damaged)?;
                number |= u64::from(byte & 0x7f) << shift;
                rest = after;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
                if shift > 28 {
                    return Err(damaged());
                }
            }
            let length = (number >> 1) as usize;
            let (data, after) = rest.split_at_checked(length).ok_or_else(damaged)?;
            batch.push(if number & 1 == 1 { Stream::Stderr } else { Stream::Stdout }, data);
            rest = after;
        }
        if batch.data.len() as u32 != header.output_bytes { Err(damaged()) } else { Ok(batch) }
    }
}

impl BatchHeader {
    /// None: no batch can begin like this.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<BatchHeader> {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let header = BatchHeader {
            checksum: number(0),
            body_bytes: number(4),
            output_bytes: number(8),
            offset: u64::from(number(12)) | u64::from(number(16)) << 32,
        };
        let is_sane = header.output_bytes > 0
            && header.output_bytes < header.body_bytes
            && header.body_bytes as usize <= BODY_BYTES_MAX
            && header.offset.checked_add(header.output_bytes.into()).is_some();
        is_sane.then_some(header)
    }
}

/// Appends bytes to a page, joined to its last part where they continue it.
pub fn append_part(parts: &mut Vec<OutputPart>, offset: u64, stream: Stream, bytes: &[u8]) {
    match parts.last_mut() {
        Some(last) if last.stream == stream && last.end() == offset => last.bytes.extend_from_slice(bytes),
        _ => parts.push(OutputPart { offset, stream, bytes: bytes.to_vec() }),
    }
}
