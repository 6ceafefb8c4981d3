//! Opening a directory: founding an empty one, or finding out whether the parts of an old one are whole and belong together.

use std::cell::{Cell, RefCell};

use uuid::Uuid;

use super::Store;
use super::cache::EntryCache;
use super::disk::{Disk, LOG_FILE, TEMPORARY_SUFFIX};
use super::error::StorageError;
use super::identity::{IDENTITY_FILE, Identity};
use super::log::{Log, LogState, Opened};
use super::snapshot::{Image, Mark};
use crate::consensus::config::NodeConfig;
use crate::consensus::members::Membership;

/// The founding counts as entry 1 of term 1 on every founder, so that a member that joins later (with entry 0) gets a snapshot first,
/// and with it the membership that it has no other way to know.
const FOUNDING: Mark = Mark { index: 1, term: 1 };

/// An opened directory, and where the state machine has to start from.
pub(crate) struct Recovered<D: Disk> {
    pub store: Store<D>,
    /// To be restored before entries are applied; without it the state machine starts empty.
    pub image: Option<Image>,
    pub membership: Membership,
    /// The entry that `image` or the founding stands for.
    pub applied: Mark,
}

/// Whose directory it is; `None` if nothing was founded there.
pub(crate) fn describe(disk: &impl Disk, cache_bytes: usize) -> Result<Option<Identity>, StorageError> {
    if let Some(identity) = Identity::read(disk)? {
        return Ok(Some(identity));
    }
    if !has_log(disk)? {
        return Ok(None);
    }
    let Opened { mut log, identity, .. } = Log::open(disk, cache_bytes)?;
    log.close().map(|()| Some(identity))
}

/// Opens the directory, or founds it with a new `store` id if it is empty.
pub(crate) fn open<D: Disk>(disk: D, config: &NodeConfig, store: Uuid) -> Result<Recovered<D>, StorageError> {
    let known = Identity::read(&disk)?;
    if let Some(known) = &known {
        check_identity(&disk, IDENTITY_FILE, known, config)?;
    }
    if !has_log(&disk)? {
        let has_snapshot = list(&disk)?.iter().any(|name| Mark::is_file_name(name) && !name.ends_with(TEMPORARY_SUFFIX));
        if known.is_some() || has_snapshot {
            return Err(StorageError::damaged(&disk.path(LOG_FILE), "the log is missing, although the directory was in use"));
        }
        found(&disk, config, store)?;
    }
    let opened = Log::open(&disk, config.limits.redb_cache_bytes)?;
    check_identity(&disk, LOG_FILE, &opened.identity, config)?;
    match known {
        None => opened.identity.write(&disk)?,
        Some(known) if known != opened.identity => {
            return Err(StorageError::damaged(&disk.path(IDENTITY_FILE), format!("it and {LOG_FILE} are of different directories")));
        }
        Some(_) => {}
    }
    assemble(disk, config, opened)
}

fn found(disk: &impl Disk, config: &NodeConfig, store: Uuid) -> Result<(), StorageError> {
    let identity = Identity { cluster_id: config.cluster_id, node_id: config.node_id, store };
    let is_founder = config.seed_members.contains_key(&config.node_id);
    let founding = if is_founder { Membership::founding(&config.seed_members) } else { Membership::default() };
    let base = if is_founder { FOUNDING } else { Mark { index: 0, term: 0 } };
    let state = LogState { term: base.term, vote: 0, commit: base.index, base_index: base.index, base_term: base.term, snapshot: None };
    Log::found(disk, config.limits.redb_cache_bytes, &identity, &founding, &state)
}

fn assemble<D: Disk>(disk: D, config: &NodeConfig, opened: Opened) -> Result<Recovered<D>, StorageError> {
    let Opened { log, identity, founding, mut state, entries } = opened;
    let founded_at = if founding == Membership::default() { Mark { index: 0, term: 0 } } else { FOUNDING };
    let log_is_complete = state.base() == founded_at;
    let durable_commit = state.commit;
    let image = match state.snapshot() {
        None if !log_is_complete => {
            return Err(StorageError::damaged(log.path(), format!("it begins behind entry {} and names no snapshot", state.base_index)));
        }
        None => None,
        Some(mark) => match Image::load(&disk, config.cluster_id, mark) {
            Err(StorageError::Damaged { path, problem }) if log_is_complete && founded_at == FOUNDING => {
                ::log::warn!("{}: {problem}; the log is complete and gives the same state", path.display());
                state.snapshot = None;
                None
            }
            other => Some(other?),
        },
    };
    let last = entries.last().map_or(state.base(), |entry| Mark { index: entry.index, term: entry.term });
    let applied = image.as_ref().map_or(founded_at, |image| image.mark);
    if applied.index < state.base_index || applied.index > last.index {
        let problem = format!("it reaches from entry {} to {}, the snapshot ends at {}", state.base_index + 1, last.index, applied.index);
        return Err(StorageError::damaged(log.path(), problem));
    }
    // A commit index may lag behind on disk, for it needs no fsync of its own; what a snapshot holds was committed.
    state.commit = state.commit.max(applied.index);
    let keep = state.snapshot().map(Mark::file_name);
    let is_left_over = |name: &&String| name.ends_with(TEMPORARY_SUFFIX) || (Mark::is_file_name(name) && Some(*name) != keep.as_ref());
    for name in list(&disk)?.iter().filter(is_left_over) {
        remove(&disk, name)?;
    }
    let membership = image.as_ref().map_or(founding, |image| image.membership.clone());
    let mut cache = EntryCache::new(config.limits.log_cache_bytes);
    cache.append(&entries);
    let store = Store {
        disk,
        identity,
        log,
        state,
        last,
        durable_commit,
        cache,
        conf_state: membership.conf_state(),
        outgoing: None,
        wanted: Cell::new(None),
        fault: RefCell::new(None),
    };
    Ok(Recovered { store, image, membership, applied })
}

fn check_identity(disk: &impl Disk, name: &str, found: &Identity, config: &NodeConfig) -> Result<(), StorageError> {
    let foreign = |problem| Err(StorageError::foreign(&disk.path(name), problem));
    if found.cluster_id != config.cluster_id {
        return foreign(format!("it belongs to cluster {}, and this node is of cluster {}", found.cluster_id, config.cluster_id));
    }
    if found.node_id != config.node_id {
        return foreign(format!("it belongs to node {}, and this is node {}", found.node_id, config.node_id));
    }
    Ok(())
}

fn has_log(disk: &impl Disk) -> Result<bool, StorageError> {
    let length = disk.len(LOG_FILE).map_err(|e| StorageError::io(&disk.path(LOG_FILE), "look at it", e))?;
    match length {
        // redb would take an empty file for a new one.
        Some(0) => Err(StorageError::damaged(&disk.path(LOG_FILE), "the log is empty, although the directory was in use")),
        length => Ok(length.is_some()),
    }
}

fn list(disk: &impl Disk) -> Result<Vec<String>, StorageError> {
    disk.list().map_err(|e| StorageError::io(&disk.path(""), "list it", e))
}

fn remove(disk: &impl Disk, name: &str) -> Result<(), StorageError> {
    disk.remove(name).map_err(|e| StorageError::io(&disk.path(name), "remove it", e))
}
