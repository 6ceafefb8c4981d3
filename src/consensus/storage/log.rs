//! The log's file: a redb database with the entries and what belongs to them. One durable commit is one fsync.
//!
//! Each entry carries a checksum of its own, because redb verifies pages only when it opens a file. Opening verifies every page, also
//! after a clean stop: the log is short, and a damaged page would else end in a panic later.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend, Table, TableDefinition};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::disk::{Disk, LOG_FILE};
use super::error::StorageError;
use super::identity::{FORMAT_VERSION, Identity};
use super::snapshot::Mark;
use crate::consensus::members::Membership;
use crate::model::{ClusterId, NodeId};

const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const KEY_MAGIC: &str = "magic";
const KEY_IDENTITY: &str = "identity";
const KEY_FOUNDING: &str = "founding";
const KEY_STATE: &str = "state";
const MAGIC: &[u8; 8] = b"CHRFLOG\0";
const CRC_BYTES: usize = 4;

/// Everything beside the entries that changes with them, in one value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogState {
    pub term: u64,
    pub vote: NodeId,
    pub commit: u64,
    /// The last entry before the first one kept.
    pub base_index: u64,
    pub base_term: u64,
    /// The newest snapshot's mark (index, term); none before the first.
    pub snapshot: Option<(u64, u64)>,
}

impl LogState {
    pub fn base(&self) -> Mark {
        Mark { index: self.base_index, term: self.base_term }
    }

    pub fn snapshot(&self) -> Option<Mark> {
        self.snapshot.map(|(index, term)| Mark { index, term })
    }

    pub fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.commit, ..HardState::default() }
    }
}

#[derive(Serialize, Deserialize)]
struct IdentityRecord {
    cluster: Uuid,
    node: NodeId,
    store: Uuid,
}

/// An opened log.
pub struct Log {
    database: Option<Database>,
    path: PathBuf,
}

/// What the file said when it was opened.
pub struct Opened {
    pub log: Log,
    pub identity: Identity,
    /// The members at the founding; empty in a node that joined later.
    pub founding: Membership,
    pub state: LogState,
    pub entries: Vec<Entry>,
}

impl Log {
    /// Opens the file, and verifies all of it.
    pub fn open<D: Disk>(disk: &D, cache_bytes: usize) -> Result<Opened, StorageError> {
        let path = disk.path(LOG_FILE);
        let backend = disk.open_log().map_err(|e| StorageError::io(&path, "open it", e))?;
        let log = Log::on(backend, path, cache_bytes)?;
        let read = log.database()?.begin_read().map_err(|e| log.error("read it", e))?;
        let meta = read.open_table(META).map_err(|e| log.error("read it", e))?;
        log.check_magic(get(&meta, KEY_MAGIC, &log.path)?.as_deref())?;
        let identity: IdentityRecord = log.decode(get(&meta, KEY_IDENTITY, &log.path)?, KEY_IDENTITY)?;
        let founding: Membership = log.decode(get(&meta, KEY_FOUNDING, &log.path)?, KEY_FOUNDING)?;
        let state: LogState = log.decode(get(&meta, KEY_STATE, &log.path)?, KEY_STATE)?;
        let table = read.open_table(ENTRIES).map_err(|e| log.error("read it", e))?;
        let count = table.len().map_err(|e| log.error("read it", e))?;
        let entries = log.read_range(&table, state.base_index + 1..state.base_index.saturating_add(count) + 1)?;
        log.check_entries(&state, count, &entries)?;
        let identity = Identity { cluster_id: ClusterId(identity.cluster), node_id: identity.node, store: identity.store };
        Ok(Opened { log, identity, founding, state, entries })
    }

    fn on(backend: impl StorageBackend, path: PathBuf, cache_bytes: usize) -> Result<Log, StorageError> {
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes).set_check_integrity_on_open(true);
        let database = builder.create_with_backend(backend).map_err(|e| StorageError::redb(&path, "open it", e))?;
        Ok(Log { database: Some(database), path })
    }

    fn check_magic(&self, magic: Option<&[u8]>) -> Result<(), StorageError> {
        let version = magic.and_then(|bytes| bytes.strip_prefix(MAGIC)).and_then(|rest| Some(u32::from_le_bytes(rest.try_into().ok()?)));
        match version {
            None => Err(StorageError::damaged(&self.path, "it is a redb database, but no consensus log (wrong magic)")),
            Some(found) if found > FORMAT_VERSION => Err(StorageError::Newer { path: self.path.clone(), found, known: FORMAT_VERSION }),
            Some(_) => Ok(()),
        }
    }

    fn check_entries(&self, state: &LogState, count: u64, entries: &[Entry]) -> Result<(), StorageError> {
        if entries.len() as u64 != count {
            return Err(StorageError::damaged(&self.path, format!("the log has a gap behind entry {}", state.base_index)));
        }
        let last_index = state.base_index + count;
        if state.commit > last_index.max(state.snapshot.map_or(0, |(index, _)| index)) {
            return Err(StorageError::damaged(
                &self.path,
                format!("entry {} was committed, and the log ends at {last_index}", state.commit),
            ));
        }
        let mut term = state.base_term;
        for entry in entries {
            if entry.term < term || entry.term > state.term {
                return Err(StorageError::damaged(&self.path, format!("entry {} has an impossible term", entry.index)));
            }
            term = entry.term;
        }
        Ok(())
    }

    /// Makes a log with its first content. It is there as a whole, or not at all.
    pub fn found<D: Disk>(
        disk: &D,
        cache_bytes: usize,
        identity: &Identity,
        founding: &Membership,
        state: &LogState,
    ) -> Result<(), StorageError> {
        let path = disk.path(LOG_FILE);
        let backend = disk.create_log().map_err(|e| StorageError::io(&path, "create it", e))?;
        let mut log = Log::on(backend, path.clone(), cache_bytes)?;
        let mut magic = MAGIC.to_vec();
        magic.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        let record = IdentityRecord { cluster: identity.cluster_id.0, node: identity.node_id, store: identity.store };
        log.commit(|meta, _| {
            meta.insert(KEY_MAGIC, magic.as_slice())?;
            meta.insert(KEY_IDENTITY, encode(&record).as_slice())?;
            meta.insert(KEY_FOUNDING, encode(founding).as_slice())?;
            meta.insert(KEY_STATE, encode(state).as_slice())?;
            Ok(())
        })?;
        log.close()?;
        disk.adopt_log().map_err(|e| StorageError::io(&path, "create it", e))
    }

    /// Writes `entries`, takes out what follows them up to `last_index` (a conflicting tail), and the state. One fsync.
    pub fn append(&self, entries: &[Entry], last_index: u64, state: &LogState) -> Result<(), StorageError> {
        self.commit(|meta, table| {
            let mut record = Vec::new();
            for entry in entries {
                encode_entry(entry, &mut record);
                table.insert(entry.index, record.as_slice())?;
            }
            if let Some(last) = entries.last() {
                for index in last.index + 1..=last_index {
                    table.remove(index)?;
                }
            }
            meta.insert(KEY_STATE, encode(state).as_slice())?;
            Ok(())
        })
    }

    /// Takes out `indexes` and writes the state. One fsync.
    pub fn remove(&self, indexes: Range<u64>, state: &LogState) -> Result<(), StorageError> {
        self.commit(|meta, table| {
            table.retain_in(indexes, |_, _| false)?;
            meta.insert(KEY_STATE, encode(state).as_slice())?;
            Ok(())
        })
    }

    /// The entries of a range, up to `bytes_max` of them but at least one.
    pub fn read(&self, indexes: Range<u64>, bytes_max: u64) -> Result<Vec<Entry>, StorageError> {
        let read = self.database()?.begin_read().map_err(|e| self.error("read it", e))?;
        let table = read.open_table(ENTRIES).map_err(|e| self.error("read it", e))?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in indexes {
            let Some(value) = table.get(index).map_err(|e| self.error("read it", e))? else {
                return Err(StorageError::damaged(&self.path, format!("entry {index} is missing")));
            };
            let entry = self.decode_entry(index, value.value())?;
            bytes += u64::from(entry.compute_size());
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn read_range(&self, table: &impl ReadableTable<u64, &'static [u8]>, indexes: Range<u64>) -> Result<Vec<Entry>, StorageError> {
        let mut entries = Vec::new();
        for item in table.range(indexes.clone()).map_err(|e| self.error("read it", e))? {
            let (key, value) = item.map_err(|e| self.error("read it", e))?;
            if key.value() != indexes.start + entries.len() as u64 {
                break;
            }
            entries.push(self.decode_entry(key.value(), value.value())?);
        }
        Ok(entries)
    }

    /// Closes the file in order, so that it needs no repair at the next start.
    pub fn close(&mut self) -> Result<(), StorageError> {
        match self.database.take() {
            Some(database) => database.close().map_err(|e| self.error("close it", e)),
            None => Ok(()),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn commit(
        &self,
        change: impl FnOnce(&mut Table<'_, &'static str, &'static [u8]>, &mut Table<'_, u64, &'static [u8]>) -> Result<(), redb::StorageError>,
    ) -> Result<(), StorageError> {
        let write = self.database()?.begin_write().map_err(|e| self.error("write it", e))?;
        {
            let mut meta = write.open_table(META).map_err(|e| self.error("write it", e))?;
            let mut entries = write.open_table(ENTRIES).map_err(|e| self.error("write it", e))?;
            change(&mut meta, &mut entries).map_err(|e| self.error("write it", e))?;
        }
        failpoint!("before-log-commit");
        // Durability::Immediate and one phase are redb's defaults: one fsync, guarded by checksums.
        write.commit().map_err(|e| self.error("write it", e))
    }

    fn database(&self) -> Result<&Database, StorageError> {
        self.database.as_ref().ok_or_else(|| StorageError::io(&self.path, "use it", std::io::Error::other("the log was closed")))
    }

    fn decode<T: for<'de> Deserialize<'de>>(&self, bytes: Option<Vec<u8>>, key: &str) -> Result<T, StorageError> {
        bytes
            .and_then(|bytes| postcard::from_bytes(&bytes).ok())
            .ok_or_else(|| StorageError::damaged(&self.path, format!("its {key} record is missing or damaged")))
    }

    fn decode_entry(&self, index: u64, record: &[u8]) -> Result<Entry, StorageError> {
        let damaged = || StorageError::damaged(&self.path, format!("entry {index} is damaged"));
        let (crc, bytes) = record.split_at_checked(CRC_BYTES).ok_or_else(damaged)?;
        if crc != crc32fast::hash(bytes).to_le_bytes() {
            return Err(damaged());
        }
        let entry = Entry::parse_from_carllerche_bytes(&Bytes::copy_from_slice(bytes)).map_err(|_| damaged())?;
        if entry.index == index { Ok(entry) } else { Err(damaged()) }
    }

    fn error(&self, action: &'static str, error: impl Into<redb::Error>) -> StorageError {
        StorageError::redb(&self.path, action, error)
    }
}

fn get(table: &impl ReadableTable<&'static str, &'static [u8]>, key: &str, path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    let value = table.get(key).map_err(|e| StorageError::redb(path, "read it", e))?;
    Ok(value.map(|guard| guard.value().to_vec()))
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain records of integers, strings and maps always encode")
}

fn encode_entry(entry: &Entry, record: &mut Vec<u8>) {
    record.clear();
    record.extend_from_slice(&[0; CRC_BYTES]);
    entry.write_to_vec(record).expect("protobuf writes any entry into memory");
    let crc = crc32fast::hash(&record[CRC_BYTES..]);
    record[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_the_records_stands_still() {
        let entry = Entry { index: 7, term: 2, data: b"do".as_slice().into(), context: b"c".as_slice().into(), ..Entry::default() };
        let mut record = Vec::new();
        encode_entry(&entry, &mut record);
        assert_eq!(record[CRC_BYTES..], [0x10, 2, 0x18, 7, 0x22, 2, b'd', b'o', 0x32, 1, b'c']);
        assert_eq!(record[..CRC_BYTES], crc32fast::hash(&record[CRC_BYTES..]).to_le_bytes());
        let state = LogState { term: 5, vote: 1, commit: 300, base_index: 1, base_term: 1, snapshot: Some((9, 4)) };
        assert_eq!(encode(&state), [5, 1, 0xAC, 2, 1, 1, 1, 9, 4]);
    }
}
