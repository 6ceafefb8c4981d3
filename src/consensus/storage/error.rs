//! What can be wrong with a data directory. Every message names the file and says what to do.

use std::io;
use std::path::{Path, PathBuf};

/// What to do about files that can't be used any more.
pub(crate) const ADVICE_DAMAGED: &str = "Nothing was changed. Restore the directory from a backup; or, if other controllers of the cluster \
     are healthy, remove this member and add it again with an empty directory; or move the directory away to start empty";
const ADVICE_FOREIGN: &str = "Nothing was changed. Start with the directory that belongs to this node";

/// Why a data directory is refused or a node had to stop.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Corrupt, cut short, or contradicting itself.
    #[error("{}: {problem}. {ADVICE_DAMAGED}", path.display())]
    Damaged { path: PathBuf, problem: String },
    /// Sound, but of another cluster or node.
    #[error("{}: {problem}. {ADVICE_FOREIGN}", path.display())]
    Foreign { path: PathBuf, problem: String },
    /// Written by a later version of the program.
    #[error("{}: written in format {found}, and this version of chrono-flow reads up to {known}. Start with the newer version", path.display())]
    Newer { path: PathBuf, found: u32, known: u32 },
    /// Open in another process.
    #[error("{}: another process has it open. Stop that process, or start with another data directory", path.display())]
    InUse { path: PathBuf },
    /// The disk or a quota is full.
    #[error("{}: no space left on the disk. What was acknowledged is safe; free some space and start again", path.display())]
    Full { path: PathBuf },
    /// The operating system failed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },
}

impl StorageError {
    pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> StorageError {
        StorageError::Damaged { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn foreign(path: &Path, problem: impl Into<String>) -> StorageError {
        StorageError::Foreign { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> StorageError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::Full { path: path.to_owned() },
            _ => StorageError::Io { path: path.to_owned(), action, source },
        }
    }

    /// Translates what redb says while doing `action` with the log at `path`.
    pub(crate) fn redb(path: &Path, action: &'static str, error: impl Into<redb::Error>) -> StorageError {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => StorageError::InUse { path: path.to_owned() },
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => StorageError::damaged(path, source.to_string()),
            redb::Error::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => StorageError::damaged(path, "it was cut short"),
            redb::Error::Io(source) => StorageError::io(path, action, source),
            redb::Error::UpgradeRequired(version) => {
                StorageError::damaged(path, format!("it has the format {version} of redb, which this program never wrote"))
            }
            redb::Error::Corrupted(problem) => StorageError::damaged(path, format!("it is corrupt ({problem})")),
            error @ (redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableIsNotMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableDoesNotExist(_)) => StorageError::damaged(path, format!("it is no consensus log ({error})")),
            error => StorageError::Io { path: path.to_owned(), action, source: io::Error::other(error.to_string()) },
        }
    }
}
