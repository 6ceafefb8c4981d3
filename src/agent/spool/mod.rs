//! Output that is too large to travel in a report, in one file a run, until the store has it (PROTOCOL E4). The folder as a whole is
//! bounded: beyond the limit output is lost, with the run's error saying so, and the worker takes no new work from well below it (B10).

mod batch;
mod file;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use uuid::Uuid;

pub use batch::{BATCH_BYTES, Batch, append_part};
pub use file::{Keep, PageReader, SpoolFile};

use crate::model::RunId;

/// New work is declined when so many hundredths of the limit are used: the rest is for what already runs.
const DECLINE_PERCENT: u64 = 80;
/// And taken again below so many.
const ACCEPT_PERCENT: u64 = 70;

pub struct Spool {
    dir: PathBuf,
    bytes_max: u64,
    /// Bytes of all files, and of small outputs that memory and journal hold.
    used: u64,
    inline: u64,
    inline_bytes_max: u64,
    is_declining: bool,
}

impl Spool {
    /// The spool in `dir`, which is made if it doesn't exist.
    pub fn open(dir: PathBuf, bytes_max: u64, inline_bytes_max: u64) -> Result<Spool> {
        // What commands print is nobody else's business.
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.with_context(|| format!("can't create {}", dir.display()))?;
        Ok(Spool { dir, bytes_max, used: 0, inline: 0, inline_bytes_max, is_declining: false })
    }

    pub fn path(&self, run: RunId) -> PathBuf {
        path(&self.dir, run)
    }

    /// Removes files of runs that are not in `wanted`; says how many.
    pub fn remove_orphans(&self, wanted: &BTreeSet<RunId>) -> Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.dir).with_context(|| format!("can't read {}", self.dir.display()))? {
            let path = entry.with_context(|| format!("can't read {}", self.dir.display()))?.path();
            let run = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| Uuid::parse_str(stem).ok()).map(RunId);
            if run.is_none_or(|run| !wanted.contains(&run)) {
                fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Makes the file of a run.
    pub fn create(&mut self, run: RunId, keep: Keep) -> io::Result<SpoolFile> {
        self.check_room()?;
        let file = SpoolFile::create(&self.path(run), run, keep)?;
        self.used += file.disk_bytes();
        Ok(file)
    }

    /// Lets `write` add to a file, if there is room, and counts what it added.
    pub fn write(&mut self, file: &mut SpoolFile, write: impl FnOnce(&mut SpoolFile) -> io::Result<()>) -> io::Result<()> {
        self.check_room()?;
        let before = file.disk_bytes();
        let written = write(file);
        self.used += file.disk_bytes() - before;
        written
    }

    fn check_room(&self) -> io::Result<()> {
        if self.used >= self.bytes_max {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("the worker's spool has reached its limit of {} bytes", self.bytes_max),
            ));
        }
        Ok(())
    }

    /// Whether small outputs may still be held in memory.
    pub fn has_inline_room(&self, bytes: u64) -> bool {
        self.inline + bytes <= self.inline_bytes_max
    }

    /// Counts what an ended run holds; its file was counted as it was written.
    pub fn hold_inline(&mut self, bytes: u64) {
        self.inline += bytes;
        self.used += bytes;
    }

    /// Counts a file of an earlier life.
    pub fn hold_file(&mut self, bytes: u64) {
        self.used += bytes;
    }

    pub fn release_inline(&mut self, bytes: u64) {
        self.inline = self.inline.saturating_sub(bytes);
        self.used = self.used.saturating_sub(bytes);
    }

    /// Removes a run's file of so many bytes.
    pub fn remove(&mut self, run: RunId, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
        let path = self.path(run);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("can't remove {}: {error}", path.display());
        }
    }

    /// Why no new work is taken, if so.
    pub fn trouble(&mut self) -> Option<String> {
        let percent = if self.is_declining { ACCEPT_PERCENT } else { DECLINE_PERCENT };
        self.is_declining = self.used >= self.bytes_max / 100 * percent;
        self.is_declining.then(|| format!("the spool holds {} of {} bytes of output that is not recorded yet", self.used, self.bytes_max))
    }
}

/// The spool file of a run in the spool folder `dir`.
pub fn path(dir: &Path, run: RunId) -> PathBuf {
    dir.join(format!("{run}.out"))
}
