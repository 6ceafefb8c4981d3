//! Directories that were damaged, swapped or cut short: each is refused by the name of the file at fault, or gives back all that it held.

use std::path::{Path, PathBuf};

use chrono_flow::consensus::{Core, Directory, Disk, Failure, Input, NoPeers, NodeConfig, StartError, StorageError, Work, describe, start};
use chrono_flow::model::ClusterId;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use tempfile::TempDir;
use uuid::Uuid;

use crate::disk::{Loss, MemoryDisk};
use crate::machine::{History, Recorder};
use crate::random::Random;
use crate::sim::{CLUSTER, Yield, small_limits};

const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

fn config(dir: &Path) -> NodeConfig {
    NodeConfig { limits: small_limits(), ..NodeConfig::new(1, dir.to_owned(), CLUSTER, [(1, "node-1:1".to_owned())].into()) }
}

fn open<D: Disk>(disk: D, config: NodeConfig) -> Result<Core<Recorder, D>, Failure> {
    Core::open(disk, config, Recorder::default(), 7, Uuid::from_u128(9), 0)
}

/// Runs a member through `count` commands, and stops it in order or not.
fn fill(disk: impl Disk, config: NodeConfig, count: u64, in_order: bool) -> History {
    let mut core = open(disk, config).unwrap();
    let mut works: Vec<Work> = Vec::new();
    for token in 0..=count {
        let mut yielded = Yield::default();
        let mut inputs: Vec<Input> = works.drain(..).map(|work| Input::Done(work.run())).collect();
        if token > 0 {
            inputs.push(Input::Propose { token, command: format!("command {token}").into_bytes() });
        }
        core.turn(0, inputs, &mut yielded).unwrap();
        works.extend(yielded.works);
    }
    let done: Vec<Input> = works.into_iter().map(|work| Input::Done(work.run())).collect();
    core.turn(0, done, &mut Yield::default()).unwrap();
    if in_order {
        core.close(&mut Yield::default()).unwrap();
    }
    core.machine().history.clone()
}

/// A directory with a snapshot in the middle and entries behind it.
fn filled() -> (TempDir, History) {
    let dir = TempDir::new().unwrap();
    let history = fill(Directory::open(dir.path()).unwrap(), config(dir.path()), 50, true);
    (dir, history)
}

/// The same on a disk in memory, which is quicker.
fn filled_memory(in_order: bool) -> (MemoryDisk, History) {
    let disk = MemoryDisk::default();
    let history = fill(disk.clone(), memory_config(), 50, in_order);
    (disk, history)
}

fn memory_config() -> NodeConfig {
    config(Path::new("/memory"))
}

fn snapshot_file(dir: &Path) -> PathBuf {
    let mut names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    names.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snapshot-")).expect("a snapshot")
}

/// What a start says, or the history that it comes back with.
fn restart(config: NodeConfig) -> Result<History, String> {
    restart_on(Directory::open(&config.data_dir).unwrap(), config)
}

fn restart_on(disk: impl Disk, config: NodeConfig) -> Result<History, String> {
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut core = open(disk, config)?;
        core.turn(0, vec![], &mut Yield::default())?;
        core.turn(0, vec![], &mut Yield::default())?;
        let history = core.machine().history.clone();
        core.close(&mut Yield::default())?;
        Ok::<History, Failure>(history)
    }));
    match opened {
        Ok(result) => result.map_err(|failure| failure.to_string()),
        // redb's debug assertions; `start` catches them, and release builds return an error instead.
        Err(_) => Err("log.redb: panicked".to_owned()),
    }
}

#[track_caller]
fn refuses(config: NodeConfig, words: &[&str]) {
    let disk = Directory::open(&config.data_dir).unwrap();
    refuses_on(&disk, config, words);
}

#[track_caller]
fn refuses_on(disk: &impl Disk, config: NodeConfig, words: &[&str]) {
    let text = restart_on(disk.clone(), config).expect_err("the directory must be refused");
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in: {text}");
    }
}

#[test]
fn a_whole_directory_comes_back() {
    let (dir, history) = filled();
    assert_eq!(restart(config(dir.path())).unwrap(), history);
    let dir = TempDir::new().unwrap();
    let history = fill(Directory::open(dir.path()).unwrap(), config(dir.path()), 50, false);
    assert_eq!(restart(config(dir.path())).unwrap(), history, "without a stop in order");
}

#[test]
fn a_damaged_snapshot_is_refused_by_name() {
    let (dir, _) = filled();
    let path = snapshot_file(dir.path());
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 8, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        refuses(config(dir.path()), &[path.to_str().unwrap(), "Restore the directory from a backup"]);
    }
    std::fs::remove_file(&path).unwrap();
    refuses(config(dir.path()), &[&name, "missing"]);
    std::fs::write(&path, &whole).unwrap();
    assert!(restart(config(dir.path())).is_ok(), "nothing was changed by the refusals");
}

#[test]
fn no_bit_of_a_snapshot_flips_unnoticed() {
    let (disk, history) = filled_memory(true);
    let name = disk.snapshot_files().remove(0);
    let whole = disk.file(&name);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        disk.set_file(&name, Some(bytes));
        refuses_on(&disk, memory_config(), &[&name]);
    }
    for length in 0..whole.len() {
        disk.set_file(&name, Some(whole[..length].to_vec()));
        refuses_on(&disk, memory_config(), &[&name]);
    }
    disk.set_file(&name, Some([whole.as_slice(), b"more"].concat()));
    refuses_on(&disk, memory_config(), &[&name]);
    disk.set_file(&name, Some(whole));
    assert_eq!(restart_on(disk, memory_config()).unwrap(), history);
}

#[test]
fn a_damaged_snapshot_over_a_complete_log_costs_nothing() {
    let mut keeping = memory_config();
    keeping.limits.log_keep_entries = 1_000;
    let disk = MemoryDisk::default();
    let history = fill(disk.clone(), keeping.clone(), 50, true);
    let name = disk.snapshot_files().remove(0);
    disk.set_file(&name, Some(b"rubbish".to_vec()));
    assert_eq!(restart_on(disk.clone(), keeping.clone()).unwrap(), history);
    assert!(!disk.snapshot_files().contains(&name));

    // With a log that begins later it is refused.
    let (disk, _) = filled_memory(true);
    let name = disk.snapshot_files().remove(0);
    disk.set_file(&name, Some(b"rubbish".to_vec()));
    refuses_on(&disk, keeping, &[&name]);
}

#[test]
fn a_damaged_log_is_refused_by_name_or_was_not_needed() {
    for in_order in [true, false] {
        let (disk, history) = filled_memory(in_order);
        disk.crash(Loss::Everything, &mut Random(1));
        let whole = disk.file("log.redb");
        let name = disk.snapshot_files().remove(0);
        let snapshot = disk.file(&name);
        let (mut refused, mut lost) = (0, 0);
        let mut random = Random(3);
        let places = (0..320).chain((0..500).map(|_| random.next() as usize % whole.len()));
        for at in places {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            disk.set_file("log.redb", Some(bytes));
            match restart_on(disk.clone(), memory_config()) {
                Err(text) => {
                    assert!(text.contains("log.redb"), "{text}");
                    refused += 1;
                }
                Ok(found) if found == history => {}
                Ok(found) => {
                    // After a crash the newest commit may be torn, so a bit flipped in it can't be told from that. Nothing else may go.
                    assert!(!in_order && found[..] == history[..found.len()] && found.len() + 1 >= history.len(), "byte {at}: {found:?}");
                    lost += 1;
                }
            }
            disk.set_file(&name, Some(snapshot.clone()));
        }
        println!("in order: {in_order}, refused: {refused}, last commit lost: {lost}");
        assert!(refused > 20, "only {refused} of the flips were noticed");
    }
}

#[test]
fn a_log_cut_short_emptied_or_gone_is_refused_by_name() {
    let (dir, _) = filled();
    let path = dir.path().join("log.redb");
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 1, 9, 319, 320, 4_096, 8_192, whole.len() / 2, whole.len() - 4_096, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        refuses(config(dir.path()), &["log.redb"]);
    }
    std::fs::write(&path, vec![0xAB; 10_000]).unwrap();
    refuses(config(dir.path()), &["log.redb", "Restore the directory from a backup"]);
    std::fs::remove_file(&path).unwrap();
    refuses(config(dir.path()), &["log.redb", "missing"]);
    assert!(!path.exists(), "a refusal makes nothing up");
}

#[test]
fn a_gap_a_foreign_database_and_a_damaged_entry_are_refused_by_name() {
    let change = |what: &dyn Fn(&redb::WriteTransaction)| {
        let (dir, _) = filled();
        let database = redb::Database::open(dir.path().join("log.redb")).unwrap();
        let write = database.begin_write().unwrap();
        what(&write);
        write.commit().unwrap();
        database.close().unwrap();
        dir
    };
    let last = |write: &redb::WriteTransaction| write.open_table(ENTRIES).unwrap().last().unwrap().unwrap().0.value();
    let gap = change(&|write| {
        let index = last(write) - 2;
        write.open_table(ENTRIES).unwrap().remove(index).unwrap();
    });
    refuses(config(gap.path()), &["log.redb", "gap"]);
    let short = change(&|write| {
        let index = last(write);
        let mut table = write.open_table(ENTRIES).unwrap();
        (index - 8..=index).for_each(|index| drop(table.remove(index).unwrap()));
    });
    refuses(config(short.path()), &["log.redb", "was committed"]);
    let entry = change(&|write| {
        let index = last(write);
        write.open_table(ENTRIES).unwrap().insert(index, [1u8; 40].as_slice()).unwrap();
    });
    refuses(config(entry.path()), &["log.redb", "entry", "damaged"]);
    let magic = change(&|write| drop(write.open_table(META).unwrap().insert("magic", b"elsewhat".as_slice()).unwrap()));
    refuses(config(magic.path()), &["log.redb", "magic"]);
    let newer = change(&|write| drop(write.open_table(META).unwrap().insert("magic", b"CHRFLOG\0\x02\0\0\0".as_slice()).unwrap()));
    refuses(config(newer.path()), &["log.redb", "format 2", "newer version"]);
    let state = change(&|write| drop(write.open_table(META).unwrap().remove("state").unwrap()));
    refuses(config(state.path()), &["log.redb", "state record"]);
}

#[test]
fn a_directory_of_another_cluster_or_node_is_refused_by_name() {
    let (dir, _) = filled();
    let other = ClusterId(Uuid::from_u128(2));
    refuses(NodeConfig { cluster_id: other, ..config(dir.path()) }, &["identity", &CLUSTER.to_string(), &other.to_string()]);
    let seed_members = [(1, "a:1".to_owned()), (2, "b:1".to_owned())].into();
    refuses(NodeConfig { node_id: 2, seed_members, ..config(dir.path()) }, &["identity", "node 1", "node 2"]);
    // The log says so too, if the identity file is not asked.
    std::fs::remove_file(dir.path().join("identity")).unwrap();
    refuses(NodeConfig { cluster_id: other, ..config(dir.path()) }, &["log.redb", &other.to_string()]);
    assert!(restart(config(dir.path())).is_ok());
    assert!(dir.path().join("identity").exists(), "written again");
}

#[test]
fn a_damaged_identity_is_refused_by_name() {
    let (dir, _) = filled();
    let path = dir.path().join("identity");
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        refuses(config(dir.path()), &["identity"]);
    }
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refuses(config(dir.path()), &["identity"]);
    let text = String::from_utf8(whole).unwrap();
    std::fs::write(&path, text.replace("format 1", "format 9")).unwrap();
    refuses(config(dir.path()), &["identity", "format 9", "newer version"]);
}

#[test]
fn a_snapshot_of_another_cluster_or_a_newer_format_is_refused_by_name() {
    let (dir, _) = filled();
    let path = snapshot_file(dir.path());
    let whole = std::fs::read(&path).unwrap();
    let patched = |at: usize, with: &[u8]| {
        let mut bytes = whole[..whole.len() - 4].to_vec();
        bytes[at..at + with.len()].copy_from_slice(with);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
    };
    patched(8, &2u32.to_le_bytes());
    refuses(config(dir.path()), &["snapshot-", "format 2", "newer version"]);
    patched(12, Uuid::from_u128(5).as_bytes());
    refuses(config(dir.path()), &["snapshot-", "belongs to cluster"]);
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_described_when_it_is_free() {
    let dir = TempDir::new().unwrap();
    assert_eq!(describe(&dir.path().join("nothing")).unwrap(), None);
    assert_eq!(describe(dir.path()).unwrap(), None);
    let node = start(config(dir.path()), Recorder::default(), NoPeers).unwrap();
    let second = start(config(dir.path()), Recorder::default(), NoPeers).err().expect("the log is in use");
    assert!(matches!(&second, StartError::Node(Failure::Storage(StorageError::InUse { .. }))), "{second}");
    assert!(second.to_string().contains("log.redb"), "{second}");
    let identity = node.identity();
    assert_eq!((identity.cluster_id, identity.node_id), (CLUSTER, 1));
    node.stop().await;
    assert_eq!(describe(dir.path()).unwrap(), Some(identity));
    std::fs::remove_file(dir.path().join("identity")).unwrap();
    assert_eq!(describe(dir.path()).unwrap(), Some(identity), "the log knows it as well");
}

#[test]
fn the_entries_can_be_read_by_redb_alone() {
    let (dir, history) = filled();
    let database = redb::Database::open(dir.path().join("log.redb")).unwrap();
    let table = database.begin_read().unwrap().open_table(ENTRIES).unwrap();
    let (last, _) = table.last().unwrap().unwrap();
    assert!(last.value() >= history.last().unwrap().0);
}
