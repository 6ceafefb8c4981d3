//! From a path to connections that can be trusted: the file is ours, whole as far as a quick look tells, and of this version's schema.
//!
//! A file is ours if it says so in SQLite's application id. Up to `QUICK_CHECK_BYTES_MAX` it is read through for damage; of a greater
//! one SQLite checks header, length and schema here, and each page when it is read.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use refinery::{Migration, Runner};
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::error::is_damage;
use crate::store::{Result, StoreError};

/// "CrFl": says that a SQLite file is a store of Chrono-Flow.
const APPLICATION_ID: i32 = 0x4372_466C;
/// In the order of their versions. A migration that was released is never changed.
const MIGRATIONS: [(&str, &str); 1] = [("V1__jobs_and_history", include_str!("../../../sql/sqlite/migrations/V1__jobs_and_history.sql"))];
/// refinery's name for the table of the migrations that were applied.
const MIGRATIONS_TABLE: &str = "refinery_schema_history";

/// How long a connection waits for another process's lock.
const BUSY_WAIT_MS_MAX: u64 = 5_000;
/// Page caches, together at most 2 MiB: the system's cache lies behind them.
const WRITER_CACHE_KIB: u32 = 1_536;
const READER_CACHE_KIB: u32 = 256;
/// The WAL goes into the file when it is this long (pages of 4 KiB): 32 MiB. Longer means fewer, greater fsyncs of the file.
const WAL_PAGES_MAX: u32 = 8_192;
/// What the WAL, having been longer, is cut down to.
const WAL_KEPT_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// Statements that a connection keeps prepared.
const STATEMENTS_MAX: usize = 64;
/// Files up to this size are read through at the start; that takes some tens of milliseconds.
const QUICK_CHECK_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The connection that writes. Makes the file if there is none, and brings its schema up to date.
pub(super) fn writer(path: &Path) -> Result<Connection> {
    let path = absolute(path)?;
    create_private(&path)?;
    let mut connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|error| refuse(&path, error))?;
    prepare(&mut connection, &path).map_err(|error| match error {
        OpenError::Sqlite(error) => refuse(&path, error),
        OpenError::Store(error) => error,
    })?;
    Ok(connection)
}

/// A connection that only reads, to a file that `writer` has opened.
pub(super) fn reader(path: &Path) -> Result<Connection> {
    let path = absolute(path)?;
    let open = || {
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(Duration::from_millis(BUSY_WAIT_MS_MAX))?;
        connection.execute_batch(&format!("PRAGMA cache_size = -{READER_CACHE_KIB}; PRAGMA query_only = ON;"))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(connection)
    };
    open().map_err(|error| refuse(&path, error))
}

enum OpenError {
    Sqlite(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> OpenError {
        OpenError::Sqlite(error)
    }
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> OpenError {
        OpenError::Store(error)
    }
}

/// A path that SQLite can't take for a URI or for one of its special names.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| unavailable(path, &error))
}

/// Makes the file, if need be, for its owner alone: jobs may carry secrets. SQLite gives its side files the same mode.
fn create_private(path: &Path) -> Result<()> {
    let created = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    match created {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(unavailable(path, &error)),
        _ => Ok(()),
    }
}

fn prepare(connection: &mut Connection, path: &Path) -> std::result::Result<(), OpenError> {
    connection.busy_timeout(Duration::from_millis(BUSY_WAIT_MS_MAX))?;
    let is_fresh = identify(connection, path)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(refused(path, "cannot keep a write-ahead log, which needs a local file system; move the data directory to one").into());
    }
    connection.execute_batch(&format!(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -{WRITER_CACHE_KIB};
         PRAGMA wal_autocheckpoint = {WAL_PAGES_MAX}; PRAGMA journal_size_limit = {WAL_KEPT_BYTES_MAX};"
    ))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    if is_fresh {
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    } else {
        check_whole(connection, path)?;
    }
    migrate(connection, path)
}

/// Refuses what is not ours before anything is changed. True: the file is empty.
fn identify(connection: &Connection, path: &Path) -> std::result::Result<bool, OpenError> {
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, tables) {
        (APPLICATION_ID, _) => Ok(false),
        (0, 0) => Ok(true),
        _ => Err(refused(path, "is the SQLite database of another program; name another data directory, or move the file away").into()),
    }
}

fn check_whole(connection: &Connection, path: &Path) -> std::result::Result<(), OpenError> {
    let bytes: i64 =
        connection.query_row("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size", [], |row| row.get(0))?;
    if bytes.unsigned_abs() > QUICK_CHECK_BYTES_MAX {
        return Ok(());
    }
    let finding: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if finding == "ok" { Ok(()) } else { Err(damaged(path, &finding).into()) }
}

fn migrate(connection: &mut Connection, path: &Path) -> std::result::Result<(), OpenError> {
    let known = migrations()?;
    let applied = applied(connection)?;
    for (version, checksum) in &applied {
        match known.iter().find(|migration| i64::from(migration.version()) == *version) {
            None => {
                let newest = known.last().map_or(0, Migration::version);
                let found = applied.last().map_or(0, |(version, _)| *version);
                let what =
                    format!("was written by a newer version of chrono-flow (schema {found}; this one knows {newest}); run that version");
                return Err(refused(path, &what).into());
            }
            Some(migration) if migration.checksum().to_string() != *checksum => {
                let what = format!("has another schema {version} than this version of chrono-flow; run the version that wrote it");
                return Err(refused(path, &what).into());
            }
            Some(_) => {}
        }
    }
    if applied.len() < known.len() {
        // All in one transaction, so that a crash leaves the old schema or the new one.
        let runner = Runner::new(&known).set_grouped(true);
        runner
            .run(connection)
            .map_err(|error| StoreError::Internal(format!("{}: its schema was not brought up to date: {error}", path.display())))?;
    }
    Ok(())
}

fn migrations() -> Result<Vec<Migration>> {
    let read = MIGRATIONS.iter().map(|(name, sql)| Migration::unapplied(name, sql)).collect();
    let read: std::result::Result<Vec<Migration>, refinery::Error> = read;
    read.map_err(|error| StoreError::Internal(format!("a migration in the program is unusable: {error}")))
}

/// Versions and checksums of the migrations that the file has seen.
fn applied(connection: &Connection) -> rusqlite::Result<Vec<(i64, String)>> {
    let table = connection.query_row("SELECT 1 FROM sqlite_schema WHERE name = ?1", [MIGRATIONS_TABLE], |_| Ok(())).optional()?;
    if table.is_none() {
        return Ok(Vec::new());
    }
    let mut rows = connection.prepare(&format!("SELECT version, checksum FROM {MIGRATIONS_TABLE} ORDER BY version"))?;
    rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn refuse(path: &Path, error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => {
            refused(path, "is not a SQLite database; name another data directory, or move the file away")
        }
        _ if is_damage(&error) => damaged(path, &error.to_string()),
        _ => match StoreError::from(error) {
            StoreError::Unavailable(why) => unavailable(path, &why),
            other => other,
        },
    }
}

fn damaged(path: &Path, finding: &str) -> StoreError {
    let what = "restore it from a backup, or move it and its -wal and -shm files away to start without its jobs and history";
    refused(path, &format!("is damaged ({finding}); {what}"))
}

fn refused(path: &Path, what: &str) -> StoreError {
    StoreError::Refused(format!("the store {} {what}", path.display()))
}

fn unavailable(path: &Path, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!(
        "{} cannot be opened for writing ({why}); check that its directory exists and may be written",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_in_the_folder_is_known_to_the_program() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/sqlite/migrations");
        let mut files: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        files.sort_by_key(|name| Migration::unapplied(name.trim_end_matches(".sql"), "").unwrap().version());
        assert_eq!(files, MIGRATIONS.map(|(name, _)| format!("{name}.sql")));
    }
}
