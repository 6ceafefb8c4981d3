//! The worker's journal: what was accepted, started, ended, revoked and acknowledged, so that a later life reports honestly and starts
//! nothing twice (PROTOCOL E1, E2).
//!
//! Invariants
//! - A record is written (not synced: a process crash leaves the page cache) before what it announces is done or said.
//! - Files are numbered and append-only. The oldest goes once everything in it that still matters was written again to the newest; so the
//!   journal stays within about twice what is held, with pauses that are bounded by one file.
//! - Each file names the data directory's UUID and the machine's boot. A torn end of the last file, which a crash leaves, is cut off;
//!   damage elsewhere is refused. After another boot of the machine any damage is expected, as nothing was synced: what comes behind
//!   it is unknown, and everything that is known counts as maybe started.
//!
//! Format of a file: magic, version, UUID, boot id, number, checksum; then frames of length, CRC-32, postcard. Left out: what records mean
//! (`runs`, `recover`).

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::FallocateFlags;
use uuid::Uuid;

use super::runs::Record;
use crate::model::RunId;

const MAGIC: &[u8; 8] = b"CFWJRNL\n";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 16 + 16 + 8 + 4;
const FRAME_HEADER_BYTES: usize = 8;
/// A record with the largest inline output and name, with room to spare; a length above it is damage.
const RECORD_BYTES_MAX: usize = 256 * 1024;
/// A new file is begun when the newest one is larger.
const FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Files, unless most of what is in the oldest still matters.
const FILES_MIN: usize = 3;

/// Which data directory and boot a journal belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    pub data_dir: Uuid,
    pub boot: Uuid,
}

/// A journal to append to.
pub struct Journal {
    dir: PathBuf,
    owner: Owner,
    file: File,
    /// Bytes of the newest file.
    written: u64,
    buffer: Vec<u8>,
    /// Runs first named in each file, oldest file first; the newest is the last.
    files: VecDeque<JournalFile>,
    files_max: usize,
}

struct JournalFile {
    number: u64,
    runs: Vec<RunId>,
}

/// What a journal says.
#[derive(Debug, Default)]
pub struct Replay {
    pub records: Vec<Record>,
    /// Written before the machine was last started, at least in part.
    pub is_of_other_boot: bool,
    /// The highest number of a file that was found.
    last_number: u64,
    /// Files that were read, oldest first.
    found: Vec<u64>,
}

/// The machine's present boot.
pub fn boot_id() -> Result<Uuid> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).with_context(|| format!("can't read {path}"))?;
    Uuid::parse_str(text.trim()).with_context(|| format!("{path} holds no UUID"))
}

/// Reads what earlier lives have written to `dir`, and cuts off what a crash has torn.
///
/// Errors: a file that can't be read, belongs to another data directory, is of another version, or is damaged.
pub fn replay(dir: &Path, owner: Owner) -> Result<Replay> {
    let mut replay = Replay::default();
    replay.found = numbers(dir)?;
    replay.last_number = replay.found.last().copied().unwrap_or(0);
    for number in std::mem::take(&mut replay.found) {
        let path = path(dir, number);
        let mut bytes = Vec::new();
        File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)).with_context(|| format!("can't read {}", path.display()))?;
        replay_file(&mut replay, &path, number, &bytes, owner)?;
    }
    Ok(replay)
}

fn replay_file(replay: &mut Replay, path: &Path, number: u64, bytes: &[u8], owner: Owner) -> Result<()> {
    let is_last = number == replay.last_number;
    let Some(boot) = read_header(path, number, bytes, owner)? else {
        ensure!(is_last || replay.is_of_other_boot, damaged(path, 0));
        log::warn!("{} was begun and holds nothing: removed", path.display());
        return fs::remove_file(path).with_context(|| format!("can't remove {}", path.display()));
    };
    replay.found.push(number);
    let is_of_other_boot = boot != owner.boot;
    replay.is_of_other_boot |= is_of_other_boot;
    let Some((at, tear)) = read_frames(&bytes[HEADER_BYTES..], &mut replay.records) else { return Ok(()) };
    let at = HEADER_BYTES + at;
    let is_torn = is_last && tear == Tear::AtEnd;
    ensure!(is_torn || is_of_other_boot, damaged(path, at));
    log::warn!("{}: cut off at byte {at}, {} bytes behind it were not written whole", path.display(), bytes.len() - at);
    let cut = OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(at as u64));
    cut.with_context(|| format!("can't cut off {}", path.display()))
}

fn damaged(path: &Path, at: usize) -> String {
    format!(
        "the journal {} is damaged at byte {at}. It can't be told which runs were started. To begin anew, move the worker's data directory \
         away: its runs then end as lost",
        path.display()
    )
}

/// The boot that wrote a file; none if the file breaks off within its header.
fn read_header(path: &Path, number: u64, bytes: &[u8], owner: Owner) -> Result<Option<Uuid>> {
    if bytes.len() < HEADER_BYTES || bytes[..HEADER_BYTES].iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let (head, checksum) = bytes[..HEADER_BYTES].split_at(HEADER_BYTES - 4);
    ensure!(&head[..8] == MAGIC, "{} is no journal of a worker: move it away", path.display());
    let version = u32::from_le_bytes(array(&head[8..12]));
    ensure!(
        version == VERSION,
        "{} has version {version}; this program reads version {VERSION}: use the one that wrote it",
        path.display()
    );
    ensure!(crc32fast::hash(head) == u32::from_le_bytes(array(checksum)), damaged(path, 0));
    let data_dir = Uuid::from_bytes(array(&head[12..28]));
    ensure!(
        data_dir == owner.data_dir,
        "{} belongs to the data directory {data_dir}, not to this one ({}): put back what was here, or move the worker's data directory away",
        path.display(),
        owner.data_dir
    );
    ensure!(u64::from_le_bytes(array(&head[44..52])) == number, "{} has been renamed: name it as it was", path.display());
    Ok(Some(Uuid::from_bytes(array(&head[28..44]))))
}

#[derive(PartialEq, Eq)]
pub(super) enum Tear {
    /// Nothing follows.
    AtEnd,
    Within,
}

/// Adds the records of a file's frames; where and how they break off, if they do.
pub(super) fn read_frames(bytes: &[u8], records: &mut Vec<Record>) -> Option<(usize, Tear)> {
    let mut at = 0;
    while at < bytes.len() {
        match read_frame(&bytes[at..]) {
            Ok((record, length)) => {
                records.push(record);
                at += length;
            }
            Err(tear) => return Some((at, tear)),
        }
    }
    None
}

fn read_frame(bytes: &[u8]) -> Result<(Record, usize), Tear> {
    // A file that grew without its data being written reads as zeros to its end.
    if bytes.len() < FRAME_HEADER_BYTES || bytes.iter().all(|byte| *byte == 0) {
        return Err(Tear::AtEnd);
    }
    let length = u32::from_le_bytes(array(&bytes[..4])) as usize;
    if length > RECORD_BYTES_MAX {
        return Err(Tear::Within);
    }
    let end = FRAME_HEADER_BYTES + length;
    if bytes.len() < end {
        return Err(Tear::AtEnd);
    }
    let tear = if bytes.len() == end { Tear::AtEnd } else { Tear::Within };
    let body = &bytes[FRAME_HEADER_BYTES..end];
    if crc32fast::hash(body) != u32::from_le_bytes(array(&bytes[4..8])) {
        return Err(tear);
    }
    postcard::from_bytes(body).map(|record| (record, end)).map_err(|_| Tear::Within)
}

impl Journal {
    /// Begins a new file behind those that were replayed. They stay until `drop_replayed`.
    pub fn begin(dir: &Path, owner: Owner, replay: &Replay) -> Result<Journal> {
        let number = replay.last_number + 1;
        let file = create(dir, owner, number)?;
        let files = VecDeque::from([JournalFile { number, runs: Vec::new() }]);
        Ok(Journal { dir: dir.to_path_buf(), owner, file, written: HEADER_BYTES as u64, buffer: Vec::new(), files, files_max: FILES_MIN })
    }

    /// Removes the files of earlier lives. Call it once what matters of them is written.
    pub fn drop_replayed(&self, replay: &Replay) -> Result<()> {
        for number in &replay.found {
            let path = path(&self.dir, *number);
            fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Adds a record to what `write` writes next.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        match record {
            Record::Accepted { run, .. } | Record::Revoked { run, .. } => self.name(*run),
            Record::Ended(ended) => self.name(ended.run),
            _ => {}
        }
        append_frame(&mut self.buffer, record)
    }

    fn name(&mut self, run: RunId) {
        if let Some(newest) = self.files.back_mut() {
            newest.runs.push(run);
        }
    }

    /// Writes what was appended, in one call. After an error the journal can't be used.
    pub fn write(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file.write_all(&self.buffer).with_context(|| format!("can't write to the journal in {}", self.dir.display()))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(1024 * 1024);
        Ok(())
    }

    pub fn wants_rotation(&self) -> bool {
        self.written > FILE_BYTES
    }

    /// Begins a new file, and gives up the oldest ones: `head` is what each file begins with, `records_of` gives those from
    /// which a run is rebuilt (none if it no longer matters). Without room for a new file the present one just grows.
    pub fn rotate(&mut self, head: &[Record], records_of: impl Fn(RunId) -> Vec<Record>) -> Result<()> {
        self.write()?;
        let number = self.files.back().map_or(1, |newest| newest.number + 1);
        match create(&self.dir, self.owner, number) {
            Ok(file) => self.file = file,
            Err(error) => {
                log::warn!("no new journal file could be begun, the present one grows: {error:#}");
                self.written = 0;
                return Ok(());
            }
        }
        self.written = HEADER_BYTES as u64;
        self.files.push_back(JournalFile { number, runs: Vec::new() });
        for record in head {
            self.append(record)?;
        }
        self.write()?;
        while self.files.len() > self.files_max {
            self.drop_oldest(&records_of)?;
        }
        Ok(())
    }

    /// Writes again what still matters of the oldest file, and removes it. If that was most of it, more files are allowed from now on, and
    /// fewer if it was little: so the work stays in proportion.
    fn drop_oldest(&mut self, records_of: &impl Fn(RunId) -> Vec<Record>) -> Result<()> {
        let Some(oldest) = self.files.pop_front() else { return Ok(()) };
        let before = self.written;
        let mut runs = oldest.runs;
        runs.sort_unstable();
        runs.dedup();
        for run in runs {
            for record in records_of(run) {
                self.append(&record)?;
            }
        }
        self.write()?;
        match self.written - before {
            carried if carried > FILE_BYTES / 2 => self.files_max += 1,
            carried if carried < FILE_BYTES / 4 => self.files_max = (self.files_max - 1).max(FILES_MIN),
            _ => {}
        }
        let path = path(&self.dir, oldest.number);
        fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))
    }
}

fn append_frame(buffer: &mut Vec<u8>, record: &Record) -> Result<()> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    *buffer = postcard::to_extend(record, std::mem::take(buffer)).context("a journal record can't be encoded")?;
    let length = buffer.len() - start - FRAME_HEADER_BYTES;
    ensure!(length <= RECORD_BYTES_MAX, "a journal record of {length} bytes is longer than {RECORD_BYTES_MAX}");
    let checksum = crc32fast::hash(&buffer[start + FRAME_HEADER_BYTES..]);
    buffer[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
    buffer[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// A new file with its header. Room for it is set aside where the file system can, so that a full disk stops new work before it stops the
/// reports of old.
fn create(dir: &Path, owner: Owner, number: u64) -> Result<File> {
    let path = path(dir, number);
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(owner.data_dir.as_bytes());
    header.extend_from_slice(owner.boot.as_bytes());
    header.extend_from_slice(&number.to_le_bytes());
    header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
    let create = || -> io::Result<File> {
        let mut file = OpenOptions::new().create_new(true).append(true).open(&path)?;
        if rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, FILE_BYTES + FILE_BYTES / 4) == Err(rustix::io::Errno::NOSPC) {
            let _ = fs::remove_file(&path);
            return Err(rustix::io::Errno::NOSPC.into());
        }
        file.write_all(&header)?;
        Ok(file)
    };
    create().with_context(|| format!("can't create {}", path.display()))
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("journal-{number:010}"))
}

/// The numbers of the journal's files in `dir`, ascending.
fn numbers(dir: &Path) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("can't read {}", dir.display()))? {
        let name = entry.with_context(|| format!("can't read {}", dir.display()))?.file_name();
        let Some(digits) = name.to_str().and_then(|name| name.strip_prefix("journal-")) else { continue };
        match digits.parse() {
            Ok(number) => numbers.push(number),
            Err(_) => bail!("{} is no journal of a worker: move it away", dir.join(name).display()),
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClusterId, SessionId};

    const OWNER: Owner = Owner { data_dir: Uuid::from_u128(1), boot: Uuid::from_u128(2) };

    fn run(n: u128) -> RunId {
        RunId(Uuid::from_u128(n))
    }

    fn write(dir: &Path, records: &[Record]) -> PathBuf {
        let replayed = replay(dir, OWNER).unwrap();
        let mut journal = Journal::begin(dir, OWNER, &replayed).unwrap();
        for record in records {
            journal.append(record).unwrap();
        }
        journal.write().unwrap();
        path(dir, replayed.last_number + 1)
    }

    fn some_records() -> Vec<Record> {
        let session = Record::Session { cluster: ClusterId(Uuid::from_u128(7)), session: SessionId(9) };
        vec![session, Record::Starting { run: run(1) }, Record::RecordedUpTo { index: 3 }]
    }

    #[test]
    fn what_was_written_is_read_back_over_several_lives() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &some_records());
        write(dir.path(), &[Record::Starting { run: run(2) }]);
        let replayed = replay(dir.path(), OWNER).unwrap();
        assert_eq!(replayed.records[..3], some_records());
        assert_eq!(replayed.records[3], Record::Starting { run: run(2) });
        assert!(!replayed.is_of_other_boot);
    }

    #[test]
    fn a_torn_end_is_cut_off_wherever_it_tears() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &some_records());
        let whole = fs::read(&path).unwrap();
        let frames: Vec<usize> = (0..3)
            .scan(HEADER_BYTES, |at, _| {
                *at += read_frame(&whole[*at..]).map_err(|_| ()).unwrap().1;
                Some(*at)
            })
            .collect();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let records = replay(dir.path(), OWNER).unwrap().records;
            assert_eq!(records.len(), frames.iter().filter(|end| **end <= length).count(), "cut at {length}");
            let later = write(dir.path(), &[]);
            assert!(replay(dir.path(), OWNER).is_ok(), "what was cut off once does not come up again behind a newer file");
            fs::remove_file(later).unwrap();
        }
        let mut zeros = whole[..frames[1]].to_vec();
        zeros.resize(whole.len() + 100, 0);
        fs::write(&path, zeros).unwrap();
        assert_eq!(replay(dir.path(), OWNER).unwrap().records.len(), 2, "grown, but never written");
    }

    #[test]
    fn damage_within_is_refused_with_the_name_of_the_file_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &some_records());
        let whole = fs::read(&path).unwrap();
        let last = whole.len() - 1;
        for at in 0..last {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            fs::write(&path, &bytes).unwrap();
            match replay(dir.path(), OWNER) {
                Err(error) => assert!(format!("{error:#}").contains("journal-0000000001"), "{error:#}"),
                Ok(replayed) => assert!(replayed.records.len() < 3, "flip at {at} was not noticed"),
            }
        }
        let mut bytes = whole;
        bytes[HEADER_BYTES + FRAME_HEADER_BYTES] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let error = format!("{:#}", replay(dir.path(), OWNER).unwrap_err());
        assert!(error.contains("damaged at byte 56") && error.contains("move the worker's data directory away"), "{error}");
    }

    #[test]
    fn after_another_boot_damage_is_no_refusal_but_nothing_is_known_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &some_records());
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last - 10] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let replayed = replay(dir.path(), Owner { boot: Uuid::from_u128(3), ..OWNER }).unwrap();
        assert!(replayed.is_of_other_boot && replayed.records.len() < 3);
    }

    #[test]
    fn a_journal_of_another_directory_or_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &some_records());
        let error = replay(dir.path(), Owner { data_dir: Uuid::from_u128(8), ..OWNER }).unwrap_err();
        assert!(format!("{error:#}").contains("belongs to the data directory"), "{error:#}");
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = 9;
        fs::write(&path, &bytes).unwrap();
        assert!(format!("{:#}", replay(dir.path(), OWNER).unwrap_err()).contains("version 9"));
        fs::write(&path, "hello, this is some other file that has nothing to do with a journal").unwrap();
        assert!(format!("{:#}", replay(dir.path(), OWNER).unwrap_err()).contains("no journal"));
    }

    #[test]
    fn the_journal_stays_bounded_and_keeps_what_matters() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(dir.path(), OWNER, &Replay::default()).unwrap();
        let kept = run(77);
        let accepted = |run| Record::Accepted { run, epoch: 1, job: crate::model::JobId(1), job_name: "x".repeat(255).as_str().into() };
        journal.append(&accepted(kept)).unwrap();
        for n in 0..200_000 {
            journal.append(&accepted(run(1000 + n))).unwrap();
            if journal.wants_rotation() || journal.buffer.len() > 100_000 {
                journal.write().unwrap();
            }
            if journal.wants_rotation() {
                journal.rotate(&[], |run| if run == kept { vec![accepted(run)] } else { Vec::new() }).unwrap();
            }
        }
        journal.write().unwrap();
        let bytes: u64 = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes < FILE_BYTES * (FILES_MIN as u64 + 2), "{bytes}");
        assert!(replay(dir.path(), OWNER).unwrap().records.contains(&accepted(kept)));
    }
}
