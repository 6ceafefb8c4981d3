//! A worker's data directory: locked by one agent at a time, named by a UUID that stays (PROTOCOL C1).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

const ID_FILE: &str = "worker.id";
const ID_MAGIC: &str = "chrono-flow worker 1";
const LOCK_FILE: &str = "worker.lock";

/// A data directory that belongs to this process until it is dropped.
pub struct DataDir {
    pub path: PathBuf,
    pub id: Uuid,
    _lock: File,
}

impl DataDir {
    /// Opens the directory, and makes it if it doesn't exist.
    ///
    /// Errors: another agent uses it, or it can't be read or written, or its id file is none.
    pub fn open(path: &Path) -> Result<DataDir> {
        // The journal holds what small commands print.
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.with_context(|| format!("can't create the worker's data directory {}", path.display()))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .with_context(|| format!("can't open {}", lock_path.display()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                bail!("another worker is using the data directory {}: stop it, or give this one another --data-dir", path.display())
            }
            Err(error) => return Err(error).with_context(|| format!("can't lock {}", lock_path.display())),
        }
        let id = read_or_make_id(path)?;
        Ok(DataDir { path: path.to_path_buf(), id, _lock: lock })
    }
}

fn read_or_make_id(dir: &Path) -> Result<Uuid> {
    let path = dir.join(ID_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let id = text.strip_prefix(ID_MAGIC).and_then(|id| Uuid::parse_str(id.trim()).ok());
            id.with_context(|| {
                format!(
                    "{} does not hold a worker's id: put back what was there, or move the data directory away to begin anew",
                    path.display()
                )
            })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let has_journal = fs::read_dir(dir)
                .with_context(|| format!("can't read {}", dir.display()))?
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with("journal-"));
            ensure!(
                !has_journal,
                "{} is missing beside a worker's journal: put it back, or move the data directory away to begin anew",
                path.display()
            );
            make_id(dir, &path)
        }
        Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
    }
}

/// Written aside, synced and renamed, so that there is a whole one or none.
fn make_id(dir: &Path, path: &Path) -> Result<Uuid> {
    let id = Uuid::new_v4();
    let aside = dir.join("worker.id.new");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&aside)?;
        writeln!(file, "{ID_MAGIC} {id}")?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        File::open(dir)?.sync_all()
    };
    write().with_context(|| format!("can't write {}", path.display()))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_stays_and_a_second_agent_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let id = first.id;
        let error = DataDir::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("another worker is using the data directory"), "{error}");
        drop(first);
        assert_eq!(DataDir::open(dir.path()).unwrap().id, id);
    }

    #[test]
    fn a_foreign_or_missing_id_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(ID_FILE), "something else").unwrap();
        assert!(DataDir::open(dir.path()).err().unwrap().to_string().contains("worker.id does not hold"));
        fs::remove_file(dir.path().join(ID_FILE)).unwrap();
        fs::write(dir.path().join("journal-0000000001"), "").unwrap();
        assert!(DataDir::open(dir.path()).err().unwrap().to_string().contains("worker.id is missing"));
    }
}
