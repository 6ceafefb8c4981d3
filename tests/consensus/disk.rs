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

#[derive(Debug, Default)]
struct Content {
    /// The log as the program sees it, and as it is on the platter.
    seen: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    has_log: bool,
    files: BTreeMap<String, Vec<u8>>,
    /// Handles opened before the last crash are dead.
    life: u64,
    syncs: u64,
    /// Every write fails with this error number.
    broken: Option<i32>,
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
        let mut left = std::mem::take(&mut content.synced);
        for change in std::mem::take(&mut content.unsynced) {
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
        content.seen = left.clone();
        content.synced = left;
        if random.chance(20) {
            let name = format!("snapshot-{:020}-{:020}.tmp", random.below(9), random.below(1000));
            content.files.insert(name, vec![1, 2, 3]);
        }
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

    /// Forgets everything: a new disk.
    pub fn wipe(&self) {
        let mut content = self.content();
        *content = Content { life: content.life + 1, ..Content::default() };
    }
}

fn check(content: &Content) -> io::Result<()> {
    content.broken.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
}

impl Disk for MemoryDisk {
    type Log = MemoryLog;

    fn open_log(&self) -> io::Result<MemoryLog> {
        let mut content = self.content();
        content.has_log = true;
        Ok(MemoryLog { disk: self.clone(), life: content.life })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let content = self.content();
        let log = content.has_log.then(|| LOG_FILE.to_owned());
        Ok(content.files.keys().cloned().chain(log).collect())
    }

    fn len(&self, name: &str) -> io::Result<Option<u64>> {
        let content = self.content();
        if name == LOG_FILE {
            return Ok(content.has_log.then_some(content.seen.len() as u64));
        }
        Ok(content.files.get(name).map(|bytes| bytes.len() as u64))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.content().files.get(name).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn write_durably(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut content = self.content();
        check(&content)?;
        content.files.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
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
}

impl MemoryLog {
    fn content(&self) -> io::Result<MutexGuard<'_, Content>> {
        let content = self.disk.content();
        if content.life == self.life { Ok(content) } else { Err(io::Error::other("the power went")) }
    }
}

impl StorageBackend for MemoryLog {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content()?.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = self.content()?;
        let offset = offset as usize;
        let bytes = content.seen.get(offset..offset + out.len()).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut content = self.content()?;
        check(&content)?;
        content.seen.resize(length as usize, 0);
        content.unsynced.push(Change::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut content = self.content()?;
        check(&content)?;
        content.syncs += 1;
        for change in std::mem::take(&mut content.unsynced) {
            match change {
                Change::Length(length) => content.synced.resize(length as usize, 0),
                Change::Write { offset, bytes } => {
                    let offset = offset as usize;
                    content.synced[offset..offset + bytes.len()].copy_from_slice(&bytes);
                }
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut content = self.content()?;
        check(&content)?;
        let start = offset as usize;
        content.seen[start..start + data.len()].copy_from_slice(data);
        content.unsynced.push(Change::Write { offset, bytes: data.to_vec() });
        Ok(())
    }
}
