//! The disk as this part sees it: one file for the log, and whole small-or-large files that are written once. Behind a trait, so that
//! tests can lose what was not synced.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The log, a redb file.
pub const LOG_FILE: &str = "log.redb";
/// Files that a crash may have left half written end so; they are removed at the next start.
pub const TEMPORARY_SUFFIX: &str = ".tmp";
const NEW_LOG_FILE: &str = "log.redb.tmp";

/// One directory of one node.
pub trait Disk: Clone + Send + Sync + 'static {
    type Log: redb::StorageBackend;
    /// The log's file, which must be there.
    fn open_log(&self) -> io::Result<Self::Log>;
    /// A new, empty log under a temporary name. It takes the real one with `adopt_log`, so that a founding cut short leaves no half a log.
    fn create_log(&self) -> io::Result<Self::Log>;
    /// Gives a log from `create_log` that is written and closed its name, durably.
    fn adopt_log(&self) -> io::Result<()>;
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// The length of a file in bytes; `None` if there is none.
    fn len(&self, name: &str) -> io::Result<Option<u64>>;
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Writes a whole file: after `Ok` it survives a crash; without, the old one or none does, never a part.
    fn write_durably(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The file's name for people.
    fn path(&self, name: &str) -> PathBuf;
}

/// A directory of the file system.
#[derive(Clone, Debug)]
pub struct Directory {
    dir: PathBuf,
}

impl Directory {
    /// The directory at `dir`, created if it is missing.
    pub fn open(dir: &Path) -> io::Result<Directory> {
        if !dir.is_dir() {
            std::fs::create_dir_all(dir)?;
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                sync_directory(parent)?;
            }
        }
        Ok(Directory { dir: dir.to_owned() })
    }
}

impl Disk for Directory {
    type Log = redb::backends::FileBackend;

    fn open_log(&self) -> io::Result<Self::Log> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(LOG_FILE))?;
        redb::backends::FileBackend::new(file).map_err(|error| io::Error::other(error.to_string()))
    }

    fn create_log(&self) -> io::Result<Self::Log> {
        let path = self.path(NEW_LOG_FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        redb::backends::FileBackend::new(file).map_err(|error| io::Error::other(error.to_string()))
    }

    fn adopt_log(&self) -> io::Result<()> {
        File::open(self.path(NEW_LOG_FILE))?.sync_all()?;
        std::fs::rename(self.path(NEW_LOG_FILE), self.path(LOG_FILE))?;
        sync_directory(&self.dir)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn len(&self, name: &str) -> io::Result<Option<u64>> {
        match std::fs::metadata(self.path(name)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.path(name))
    }

    fn write_durably(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.path(&format!("{name}{TEMPORARY_SUFFIX}"));
        let written = (|| {
            let mut file = File::create(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&temporary, self.path(name))
        })();
        if let Err(error) = written {
            // The space may be what is missing: don't keep the half.
            let _ = std::fs::remove_file(&temporary);
            return Err(error);
        }
        sync_directory(&self.dir)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
