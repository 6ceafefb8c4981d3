//! A disk in memory that forgets in a crash what was not synced, wholly or in part, and that can be made to fail.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use chrono_flow::consensus::Disk;
use redb::StorageBackend;

use crate::random::Random;

const LOG_FILE: &str = "log.redb";
/// The disk writes so much at once or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

/// A file as the program sees it, and as it is on the platter.
#[derive(Debug, Default)]
struct LogFile {
    seen: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Default)]
struct Content {
    log: Option<LogFile>,
    /// The log while it is being founded, under its temporary name.
    new_log: Option<LogFile>,
    files: BTreeMap<String, Vec<u8>>,
    /// Handles opened before the last crash are dead.
    life: u64,
    syncs: u64,
    /// Every write fails with this error number.
    broken: Option<i32>,
    /// The power goes at the sync after so many more.
    syncs_left: Option<u64>,
    is_cut: bool,
}

impl LogFile {
    fn crash(&mut self, loss: Loss, random: &mut Random) {
        let mut left = std::mem::take(&mut self.synced);
        for change in std::mem::take(&mut self.unsynced) {
            if matches!(loss, Loss::Everything) || random.chance(50) {
                continue;
            }
            match change {
                Change::Length(length) => left.resize(length as usize, 0),
                Change::Write { offset, mut bytes } => {
                    if random.chance(30) {
                        let sectors = bytes.len() / SECTOR_BYTES;
                        bytes.truncate(random.below(sectors as u64 + 1) as usize * SECTOR_BYTES);
                    }
                    // Beyond the end there is nothing: the new length was lost.
                    let offset = (offset as usize).min(left.len());
                    let length = bytes.len().min(left.len() - offset);
                    left[offset..offset + length].copy_from_slice(&bytes[..length]);
                }
            }
        }
        self.seen = left.clone();
        self.synced = left;
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Length(length) => self.synced.resize(length as usize, 0),
                Change::Write { offset, bytes } => {
                    let offset = offset as usize;
                    self.synced[offset..offset + bytes.len()].copy_from_slice(&bytes);
                }
            }
        }
    }
}

/// Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<Content>>);

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy)]
pub enum Loss {
    Everything,
    /// Some writes reached the platter, in any combination, and some of them in part.
    Some,
}

impl MemoryDisk {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }

    /// The power goes. Whoever has the log open can't touch it any more.
    pub fn crash(&self, loss: Loss, random: &mut Random) {
        let mut content = self.content();
        content.life += 1;
        content.syncs_left = None;
        content.is_cut = false;
        let content = &mut *content;
        for log in [&mut content.log, &mut content.new_log].into_iter().flatten() {
            log.crash(loss, random);
        }
        if random.chance(20) {
            let name = format!("snapshot-{:020}-{:020}.tmp", random.below(9), random.below(1000));
            content.files.insert(name, vec![1, 2, 3]);
        }
    }

    /// Lets the power go in the middle of things: at the sync after `syncs` more, before it has an effect. [`MemoryDisk::crash`] then says
    /// what is left.
    pub fn cut_after(&self, syncs: u64) {
        self.content().syncs_left = Some(syncs);
    }

    pub fn is_cut(&self) -> bool {
        self.content().is_cut
    }

    pub fn syncs(&self) -> u64 {
        self.content().syncs
    }

    /// From now on each write fails with an error number (28 is ENOSPC), until it is mended with `None`.
    pub fn set_broken(&self, errno: Option<i32>) {
        self.content().broken = errno;
    }

    pub fn snapshot_files(&self) -> Vec<String> {
        self.content().files.keys().filter(|name| name.starts_with("snapshot-")).cloned().collect()
    }

    /// Takes back `cut_after`, if the power has not gone yet.
    pub fn no_cut(&self) {
        self.content().syncs_left = None;
    }

    /// A whole file, the log included.
    pub fn file(&self, name: &str) -> Vec<u8> {
        let content = self.content();
        if name == LOG_FILE { content.log.as_ref().unwrap().seen.clone() } else { content.files[name].clone() }
    }

    /// Replaces a whole file, or removes it.
    pub fn set_file(&self, name: &str, bytes: Option<Vec<u8>>) {
        let mut content = self.content();
        match bytes {
            bytes if name == LOG_FILE => {
                content.log = bytes.map(|bytes| LogFile { seen: bytes.clone(), synced: bytes, unsynced: Vec::new() });
            }
            Some(bytes) => drop(content.files.insert(name.to_owned(), bytes)),
            None => drop(content.files.remove(name)),
        }
    }

    /// Forgets everything: a new disk.
    pub fn wipe(&self) {
        let mut content = self.content();
        *content = Content { life: content.life + 1, ..Content::default() };
    }
}

fn check(content: &Content) -> io::Result<()> {
    if content.is_cut {
        return Err(io::Error::other("the power went"));
    }
    content.broken.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
}

fn tick_power(content: &mut Content) -> io::Result<()> {
    match &mut content.syncs_left {
        None => Ok(()),
        Some(0) => {
            content.is_cut = true;
            check(content)
        }
        Some(left) => {
            *left -= 1;
            Ok(())
        }
    }
}

impl Disk for MemoryDisk {
    type Log = MemoryLog;

    fn open_log(&self) -> io::Result<MemoryLog> {
        let content = self.content();
        check(&content)?;
        content.log.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(MemoryLog { disk: self.clone(), life: content.life, is_new: false })
    }

    fn create_log(&self) -> io::Result<MemoryLog> {
        let mut content = self.content();
        check(&content)?;
        content.new_log = Some(LogFile::default());
        Ok(MemoryLog { disk: self.clone(), life: content.life, is_new: true })
    }

    fn adopt_log(&self) -> io::Result<()> {
        let mut content = self.content();
        check(&content)?;
        tick_power(&mut content)?;
        content.log = content.new_log.take();
        content.log.as_mut().unwrap().sync();
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let content = self.content();
        let log = content.log.is_some().then(|| LOG_FILE.to_owned());
        Ok(content.files.keys().cloned().chain(log).collect())
    }

    fn len(&self, name: &str) -> io::Result<Option<u64>> {
        let content = self.content();
        if name == LOG_FILE {
            return Ok(content.log.as_ref().map(|log| log.seen.len() as u64));
        }
        Ok(content.files.get(name).map(|bytes| bytes.len() as u64))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.content().files.get(name).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn write_durably(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut content = self.content();
        check(&content)?;
        tick_power(&mut content)?;
        content.files.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check(&self.content())?;
        self.content().files.remove(name).map(|_| ()).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/memory").join(name)
    }
}

/// The log's file on a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryLog {
    disk: MemoryDisk,
    life: u64,
    is_new: bool,
}

impl MemoryLog {
    fn with<T>(&self, use_it: impl FnOnce(&mut LogFile) -> io::Result<T>) -> io::Result<T> {
        let mut content = self.disk.content();
        let content = &mut *content;
        if content.life != self.life || content.is_cut {
            return Err(io::Error::other("the power went"));
        }
        let log = if self.is_new { &mut content.new_log } else { &mut content.log };
        use_it(log.as_mut().unwrap())
    }

    fn changing<T>(&self, use_it: impl FnOnce(&mut LogFile) -> io::Result<T>) -> io::Result<T> {
        check(&self.disk.content())?;
        self.with(use_it)
    }
}

impl StorageBackend for MemoryLog {
    fn len(&self) -> io::Result<u64> {
        self.with(|log| Ok(log.seen.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        self.with(|log| {
            let bytes = log.seen.get(offset..offset + out.len()).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            out.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.changing(|log| {
            log.seen.resize(length as usize, 0);
            log.unsynced.push(Change::Length(length));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        {
            let mut content = self.disk.content();
            check(&content)?;
            content.syncs += 1;
            tick_power(&mut content)?;
        }
        self.changing(|log| {
            log.sync();
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = offset as usize;
        self.changing(|log| {
            log.seen[start..start + data.len()].copy_from_slice(data);
            log.unsynced.push(Change::Write { offset, bytes: data.to_vec() });
            Ok(())
        })
    }
}
