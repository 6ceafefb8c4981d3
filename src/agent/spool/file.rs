//! The spool file of one run: the first half of what its output may keep, and a ring for the second.
//!
//! ```text
//! header │ head: batches from offset 0, until they hold head_max │ tail A: batches, until they hold tail_max │ tail B: likewise
//! ```
//! The tails take turns: when one is full, the other is begun anew. So both together always hold the last `tail_max` bytes, and the file
//! has at most `head_max` + 2 · `tail_max` bytes of output. What is kept is said by offsets alone ([`Keep`]); the file may hold more.
//! What is left of an earlier turn behind a tail's last batch doesn't continue its offsets, which is how it is known.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::model::{OutputPart, RunId};

use super::batch::{self, Batch, BatchHeader, append_part};

const MAGIC: &[u8; 8] = b"CFSPOOL\n";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const HEAD: usize = 0;
const REGIONS: usize = 3;

/// Which bytes of a run's output are kept: the first `head_max` and the last `tail_max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keep {
    pub head_max: u64,
    pub tail_max: u64,
}

impl Keep {
    /// Half head, half tail.
    pub fn half_and_half(bytes_max: u64) -> Keep {
        Keep { head_max: bytes_max - bytes_max / 2, tail_max: bytes_max / 2 }
    }

    /// The first kept offset at or behind `offset`, of `total` bytes.
    pub fn next(&self, offset: u64, total: u64) -> u64 {
        if offset < self.head_max { offset } else { offset.max(self.head_max).max(total.saturating_sub(self.tail_max)) }
    }

    /// How many of `total` bytes are kept.
    pub fn bytes(&self, total: u64) -> u64 {
        total.min(self.head_max.saturating_add(self.tail_max))
    }
}

pub struct SpoolFile {
    file: File,
    keep: Keep,
    regions: [Region; REGIONS],
    current: usize,
}

#[derive(Default)]
struct Region {
    start: u64,
    /// Where the next batch goes.
    end: u64,
    /// The most it has ever held.
    high_water: u64,
    output_bytes: u64,
    batches: Vec<BatchAt>,
}

#[derive(Clone, Copy)]
struct BatchAt {
    position: u64,
    header: BatchHeader,
}

impl BatchAt {
    fn output_end(&self) -> u64 {
        self.header.offset + u64::from(self.header.output_bytes)
    }
}

impl SpoolFile {
    pub fn create(path: &Path, run: RunId, keep: Keep) -> io::Result<SpoolFile> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(run.0.as_bytes());
        header.extend_from_slice(&keep.head_max.to_le_bytes());
        header.extend_from_slice(&keep.tail_max.to_le_bytes());
        header.resize(HEADER_BYTES - 4, 0);
        header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        file.write_all_at(&header, 0)?;
        Ok(SpoolFile::new(file, keep))
    }

    fn new(file: File, keep: Keep) -> SpoolFile {
        // Twice the output, as a stream may change with every byte, and what the last batch adds to a full region.
        let room = |bytes: u64| 2 * (bytes + 2 * batch::BODY_BYTES_MAX as u64) + bytes / 128;
        let starts = [
            HEADER_BYTES as u64,
            HEADER_BYTES as u64 + room(keep.head_max),
            HEADER_BYTES as u64 + room(keep.head_max) + room(keep.tail_max),
        ];
        let regions = starts.map(|start| Region { start, end: start, high_water: start, ..Region::default() });
        SpoolFile { file, keep, regions, current: HEAD }
    }

    /// Opens a file to read from it.
    pub fn open(path: &Path, run: RunId) -> io::Result<SpoolFile> {
        SpoolFile::open_checked(File::open(path)?, path, run, false)
    }

    /// Opens a file whose writer may have been killed: reads every batch, and makes an end where a crash has torn one.
    pub fn recover(path: &Path, run: RunId) -> io::Result<SpoolFile> {
        SpoolFile::open_checked(OpenOptions::new().read(true).write(true).open(path)?, path, run, true)
    }

    fn open_checked(file: File, path: &Path, run: RunId, is_verified: bool) -> io::Result<SpoolFile> {
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0)?;
        let number = |at: usize| header[at..at + 8].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let (keep, checksum) = (Keep { head_max: number(28), tail_max: number(36) }, crc32fast::hash(&header[..HEADER_BYTES - 4]));
        let limit = u64::from(crate::model::limits::MAX_OUTPUT_BYTES_MAX);
        let is_ours = &header[..8] == MAGIC
            && header[8..12] == VERSION.to_le_bytes()
            && header[12..28] == *run.0.as_bytes()
            && header[HEADER_BYTES - 4..] == checksum.to_le_bytes()
            && keep.head_max <= limit
            && keep.tail_max <= limit;
        if !is_ours {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is not the spool file of run {run}", path.display())));
        }
        let mut spool = SpoolFile::new(file, keep);
        for region in 0..REGIONS {
            spool.scan(region, is_verified)?;
        }
        Ok(spool)
    }

    /// Finds the batches of a region: from its start, as long as each continues the one before.
    fn scan(&mut self, region: usize, is_verified: bool) -> io::Result<()> {
        let limit = self.regions.get(region + 1).map_or(u64::MAX, |next| next.start);
        let length = self.file.metadata()?.len();
        loop {
            let at = &self.regions[region];
            let mut bytes = [0; batch::HEADER_BYTES];
            match self.file.read_exact_at(&mut bytes, at.end) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            }
            let expected = match at.batches.last() {
                Some(last) => Some(last.output_end()),
                None if region == HEAD => Some(0),
                None => None,
            };
            let Some(header) = BatchHeader::decode(&bytes).filter(|header| expected.is_none_or(|offset| offset == header.offset)) else {
                return Ok(());
            };
            let found = BatchAt { position: at.end, header };
            let end = at.end + (batch::HEADER_BYTES as u64) + u64::from(header.body_bytes);
            if end > limit || end > length {
                return Ok(());
            }
            if is_verified && self.read_batch(&found).is_err() {
                return self.file.write_all_at(&[0; batch::HEADER_BYTES], found.position);
            }
            self.regions[region].enter(found, end);
        }
    }

    /// Writes a batch that will be written again when it is longer.
    pub fn write_open(&mut self, batch: &Batch) -> io::Result<()> {
        self.put(&batch.encode()).map(|_| ())
    }

    /// Writes a batch for good.
    pub fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let bytes = batch.encode();
        let position = self.put(&bytes)?;
        let mut header = [0; batch::HEADER_BYTES];
        header.copy_from_slice(&bytes[..batch::HEADER_BYTES]);
        let end = position + bytes.len() as u64;
        if let Some(header) = BatchHeader::decode(&header) {
            self.regions[self.current].enter(BatchAt { position, header }, end);
        }
        Ok(())
    }

    /// Writes bytes where the next batch goes, and says where that was.
    fn put(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let position = self.place();
        let region = &mut self.regions[self.current];
        region.high_water = region.high_water.max(position + bytes.len() as u64);
        self.file.write_all_at(bytes, position).inspect_err(|_| {
            // Readers end here; what can't be written at all can't be read either.
            let _ = self.file.write_all_at(&[0; batch::HEADER_BYTES], position);
        })?;
        Ok(position)
    }

    /// Where the next batch goes; a full region is followed by the other tail, which forgets what it had.
    fn place(&mut self) -> u64 {
        let full = if self.current == HEAD { self.keep.head_max } else { self.keep.tail_max };
        if self.regions[self.current].output_bytes >= full && !self.regions[self.current].batches.is_empty() {
            self.current = if self.current == 1 { 2 } else { 1 };
            let region = &mut self.regions[self.current];
            (region.end, region.output_bytes) = (region.start, 0);
            region.batches.clear();
        }
        self.regions[self.current].end
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.regions.iter().map(|region| region.high_water - region.start).sum::<u64>()
    }

    /// The offset behind the last byte that was written.
    pub fn end(&self) -> u64 {
        self.regions.iter().filter_map(|region| region.batches.last()).map(BatchAt::output_end).max().unwrap_or(0)
    }

    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// Appends to `parts` what is kept of `total` bytes from `from` on, up to `bytes_max` bytes, and returns the offset to go on from.
    pub fn read(&self, parts: &mut Vec<OutputPart>, from: u64, total: u64, bytes_max: u64) -> io::Result<u64> {
        let mut batches: Vec<&BatchAt> =
            self.regions.iter().flat_map(|region| &region.batches).filter(|batch| batch.output_end() > from).collect();
        batches.sort_unstable_by_key(|batch| batch.header.offset);
        let mut reader = PageReader { keep: self.keep, total, next: self.keep.next(from, total), left: bytes_max };
        for at in batches {
            if at.output_end() <= reader.next {
                continue;
            }
            if reader.left == 0 {
                break;
            }
            reader.take(parts, &self.read_batch(at)?);
        }
        Ok(reader.next)
    }

    fn read_batch(&self, at: &BatchAt) -> io::Result<Batch> {
        let mut bytes = vec![0; batch::HEADER_BYTES + at.header.body_bytes as usize];
        self.file.read_exact_at(&mut bytes, at.position)?;
        Batch::decode(at.header, &bytes)
    }
}

impl Region {
    fn enter(&mut self, batch: BatchAt, end: u64) {
        self.end = end;
        self.high_water = self.high_water.max(end);
        self.output_bytes += u64::from(batch.header.output_bytes);
        self.batches.push(batch);
    }
}

/// Collects a page from batches in order of offset.
pub struct PageReader {
    pub keep: Keep,
    pub total: u64,
    /// The next offset wanted; it is kept.
    pub next: u64,
    /// Bytes that the page may still take.
    pub left: u64,
}

impl PageReader {
    pub fn take(&mut self, parts: &mut Vec<OutputPart>, batch: &Batch) {
        for (offset, stream, bytes) in batch.segments() {
            let end = offset + bytes.len() as u64;
            // A segment can lie on both sides of what was dropped.
            while self.left > 0 && self.next < end {
                let start = self.next.max(offset);
                let is_head = start < self.keep.head_max;
                let stop = if is_head { end.min(self.keep.head_max) } else { end }.min(start.saturating_add(self.left));
                append_part(parts, start, stream, &bytes[(start - offset) as usize..(stop - offset) as usize]);
                self.left -= stop - start;
                self.next = self.keep.next(stop, self.total);
            }
        }
    }
}
