//! The suite on SQLite, and what only a file can promise: which ones are refused, and how it fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono_flow::model::{JobId, JobSpec, RunState};
use chrono_flow::store::sqlite::SqliteStore;
use chrono_flow::store::{JobFilter, RecordBatch, RunRecord, Store, StoreError};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::suite::{self, Harness, NOON, open_fresh, run, run_id, spec};

pub struct Sqlite {
    path: PathBuf,
    /// Goes with the harness, if it was made for it.
    _folder: Option<TempDir>,
}

impl Harness for Sqlite {
    type Store = SqliteStore;

    fn fresh() -> Sqlite {
        let folder = tempfile::tempdir().unwrap();
        Sqlite { path: folder.path().join("store.sqlite"), _folder: Some(folder) }
    }

    fn at(location: &str) -> Sqlite {
        Sqlite { path: location.into(), _folder: None }
    }

    fn location(&self) -> String {
        self.path.to_str().unwrap().to_owned()
    }

    async fn open(&self) -> Arc<SqliteStore> {
        Arc::new(SqliteStore::open(&self.path).unwrap())
    }

    async fn close(&self, store: Arc<SqliteStore>) {
        store.close().await.unwrap();
    }
}

impl Sqlite {
    /// The file behind a closed store, to be tampered with.
    fn raw(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }
}

/// A closed store with some jobs in it.
async fn filled() -> Sqlite {
    let (harness, store) = open_fresh::<Sqlite>().await;
    for number in 0..200 {
        store.create_job(JobSpec::new(&format!("job {number}"), "* * * * *", &"x".repeat(500)), NOON).await.unwrap();
    }
    harness.close(store).await;
    harness
}

/// The reason why a file is refused; it must name the file.
fn refusal(path: &Path) -> String {
    match SqliteStore::open(path) {
        Err(StoreError::Refused(why)) => {
            assert!(why.contains(path.to_str().unwrap()), "{why}");
            why
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{} was opened", path.display()),
    }
}

mod promises {
    use super::Sqlite;
    crate::suite::promises!(Sqlite);
}

#[test]
fn what_is_no_database_is_refused_and_left_alone() {
    let harness = Sqlite::fresh();
    for content in [&b"not a database, but long enough to have a header of one hundred bytes. ".repeat(4)[..], b"short"] {
        fs::write(&harness.path, content).unwrap();
        let why = refusal(&harness.path);
        assert!(why.contains("is not a SQLite database") && why.contains("move the file away"), "{why}");
        assert_eq!(fs::read(&harness.path).unwrap(), content);
    }
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    for application_id in [0, 77] {
        let harness = Sqlite::fresh();
        harness.raw().execute_batch(&format!("PRAGMA application_id = {application_id}; CREATE TABLE jobs (id);")).unwrap();
        let before = fs::read(&harness.path).unwrap();
        let why = refusal(&harness.path);
        assert!(why.contains("another program"), "{why}");
        assert_eq!(fs::read(&harness.path).unwrap(), before);
    }
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let whole = filled().await;
    let bytes = fs::read(&whole.path).unwrap();
    assert!(bytes.len() > 100_000);
    let mut scrambled = bytes.clone();
    scrambled[50_000..54_096].fill(0xA5);
    for (what, damaged) in [("cut short", &bytes[..70_000]), ("scrambled", &scrambled)] {
        fs::write(&whole.path, damaged).unwrap();
        let why = refusal(&whole.path);
        assert!(why.contains("is damaged") && why.contains("restore it from a backup"), "{what}: {why}");
    }
    fs::write(&whole.path, bytes).unwrap();
    SqliteStore::open(&whole.path).expect("the whole file is opened");
}

#[tokio::test]
async fn another_schema_is_refused() {
    let harness = filled().await;
    let insert =
        "INSERT INTO refinery_schema_history SELECT 999, 'from_the_future', applied_on, checksum FROM refinery_schema_history LIMIT 1";
    harness.raw().execute(insert, []).unwrap();
    let why = refusal(&harness.path);
    assert!(why.contains("newer version") && why.contains("schema 999"), "{why}");
    harness
        .raw()
        .execute_batch("DELETE FROM refinery_schema_history WHERE version = 999; UPDATE refinery_schema_history SET checksum = '5'")
        .unwrap();
    let why = refusal(&harness.path);
    assert!(why.contains("has another schema 1"), "{why}");
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody, not even root, makes files under /proc.
    for path in [Path::new("/proc/self/store.sqlite"), &folder.path().join("missing/store.sqlite"), folder.path()] {
        match SqliteStore::open(path) {
            Err(StoreError::Unavailable(why)) => assert!(why.contains(path.to_str().unwrap()) && why.contains("check that"), "{why}"),
            Err(other) => panic!("{}: {other}", path.display()),
            Ok(_) => panic!("{} was opened", path.display()),
        }
    }
}

#[tokio::test]
async fn the_files_are_their_owners_alone() {
    let (harness, store) = open_fresh::<Sqlite>().await;
    store.create_job(spec("job"), NOON).await.unwrap();
    let files: Vec<_> = fs::read_dir(harness.path.parent().unwrap()).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(files.len(), 3, "the file, its WAL and its index: {files:?}");
    for file in files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{file:?}");
    }
}

#[tokio::test]
async fn a_closed_store_is_one_file_and_says_that_it_is_closed() {
    let (harness, store) = open_fresh::<Sqlite>().await;
    let last = tokio::spawn({
        let store = store.clone();
        async move { store.create_job(spec("job"), NOON).await }
    });
    tokio::task::yield_now().await; // it is queued now, if not done
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(store.check().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.change_seq().await, Err(StoreError::Unavailable(_))));
    assert_eq!(fs::read_dir(harness.path.parent().unwrap()).unwrap().count(), 1, "the WAL is in the file");
    let is_written = last.await.unwrap().is_ok();
    assert_eq!(harness.open().await.job_by_name("job").await.unwrap().is_some(), is_written);
}

#[tokio::test]
async fn an_unreadable_specification_names_its_job_and_can_be_mended() {
    let harness = filled().await;
    for bad in ["{\"name\": 7}", "no JSON"] {
        let raw = harness.raw();
        raw.execute_batch("PRAGMA ignore_check_constraints = ON").unwrap();
        raw.execute("UPDATE jobs SET spec = ?1 WHERE id = 7", [bad]).unwrap();
        drop(raw);
        let store = SqliteStore::open(&harness.path);
        let store = match store {
            Err(StoreError::Refused(why)) => {
                assert!(why.contains("CHECK"), "{why}"); // the quick look has seen it
                continue;
            }
            other => other.unwrap(),
        };
        for error in [
            store.job(JobId(7)).await.map(drop).unwrap_err(),
            store.jobs(&JobFilter::default(), None, 100).await.map(drop).unwrap_err(),
            store.changes(0, 100).await.map(drop).unwrap_err(),
        ] {
            assert!(matches!(&error, StoreError::Internal(why) if why.contains("job 7")), "{error}");
        }
        store.job(JobId(8)).await.unwrap().expect("the others can be read");
        assert!(store.replace_job(JobId(7), None, spec("mended"), NOON).await.unwrap().is_changed);
        assert_eq!(store.job(JobId(7)).await.unwrap().unwrap().spec, spec("mended"));
        store.close().await.unwrap();
    }
}

/// Frozen: what the first version wrote, any later one must read. A field that is added needs a default where it is read.
#[tokio::test]
async fn a_job_of_the_first_version_can_be_read() {
    let harness = filled().await;
    let json = r#"{"name":"job 0","schedule":"*/5 * * * *","time_zone":"UTC","kind":"shell","command":"date","is_enabled":true,"description":null,
        "labels":{"zone":"eu"},"env":{},"working_dir":null,"timeout_s":null,"kill_grace_s":10,
        "retry":{"max_attempts":1,"backoff_s":5,"max_backoff_s":3600},"overlap":"queue_one","catch_up":"last","catch_up_window_s":86400,
        "catch_up_max":100,"start_deadline_s":30,"starts_at":"2026-01-31T12:00:00Z","ends_at":null,"max_output_bytes":1048576}"#;
    harness.raw().execute("UPDATE jobs SET spec = ?1 WHERE id = 1", [json]).unwrap();
    let job = harness.open().await.job(JobId(1)).await.unwrap().unwrap();
    assert_eq!((&*job.spec.command, job.spec.overlap), ("date", chrono_flow::model::Overlap::QueueOne));
    assert_eq!(job.spec.starts_at.unwrap().to_string(), "2026-01-31T12:00:00Z");
}

#[tokio::test]
async fn a_row_that_the_database_refuses_is_set_aside_with_its_content() {
    let (harness, store) = open_fresh::<Sqlite>().await;
    let raw = harness.raw();
    raw.execute_batch("CREATE TRIGGER no BEFORE INSERT ON runs WHEN new.job_id = 13 BEGIN SELECT RAISE(ABORT, 'not this one'); END")
        .unwrap();
    let runs =
        (0..30).map(|number| RunRecord { ledger_index: 1, run: run(number, JobId(number as i64), NOON, RunState::Failed) }).collect();
    let aside = store.record(RecordBatch { runs, output: Vec::new() }).await.unwrap();
    assert_eq!(aside.len(), 1);
    assert!(aside[0].run == run_id(13) && aside[0].error.contains("not this one"), "{aside:?}");
    for number in 0..30 {
        assert_eq!(store.run(run_id(number)).await.unwrap().is_some(), number != 13);
    }
    let kept: String = raw.query_row("SELECT run FROM set_aside WHERE error LIKE '%not this one%'", [], |row| row.get(0)).unwrap();
    assert_eq!(serde_json::from_str::<chrono_flow::model::Run>(&kept).unwrap(), run(13, JobId(13), NOON, RunState::Failed));
}

/// Also where it has written something before it failed, and others share its transaction.
#[tokio::test]
async fn a_write_that_fails_leaves_nothing_behind() {
    let (harness, store) = open_fresh::<Sqlite>().await;
    let trigger = "CREATE TRIGGER no BEFORE INSERT ON jobs WHEN new.name LIKE '%7' BEGIN SELECT RAISE(ABORT, 'not this one'); END";
    harness.raw().execute_batch(trigger).unwrap();
    assert!(store.create_job(spec("alone 7"), NOON).await.is_err());
    assert_eq!(store.change_seq().await, Ok(0));
    let creates = (0..40).map(|number| {
        let store = store.clone();
        tokio::spawn(async move { (number, store.create_job(spec(&format!("job {number}")), NOON).await) })
    });
    for create in creates.collect::<Vec<_>>() {
        let (number, outcome) = create.await.unwrap();
        assert_eq!(outcome.is_err(), number % 10 == 7, "job {number}: {outcome:?}");
    }
    assert_eq!(store.change_seq().await, Ok(36), "a number that no job got is given again");
}

/// After some failures SQLite undoes the whole transaction, with the writes of others that shared it: none of them may be told that
/// it is done.
#[tokio::test]
async fn a_transaction_that_is_lost_is_lost_for_all_who_shared_it() {
    let (harness, store) = open_fresh::<Sqlite>().await;
    let trigger = "CREATE TRIGGER no BEFORE INSERT ON jobs WHEN new.name LIKE '%7' BEGIN SELECT RAISE(ROLLBACK, 'all gone'); END";
    harness.raw().execute_batch(trigger).unwrap();
    assert!(store.create_job(spec("alone 7"), NOON).await.is_err());
    let creates = (0..40).map(|number| {
        let store = store.clone();
        tokio::spawn(async move { (number, store.create_job(spec(&format!("job {number}")), NOON).await) })
    });
    for create in creates.collect::<Vec<_>>() {
        let (number, outcome) = create.await.unwrap();
        let found = store.job_by_name(&format!("job {number}")).await.unwrap();
        assert_eq!(found, outcome.as_ref().ok().map(|written| written.job.clone()), "job {number}: {outcome:?}");
        assert!(outcome.is_ok() || number % 10 == 7 || matches!(outcome, Err(StoreError::Unavailable(_))), "job {number}: {outcome:?}");
    }
    store.create_job(spec("after"), NOON).await.expect("the writer goes on");
    let jobs = store.jobs(&JobFilter::default(), None, 100).await.unwrap();
    assert_eq!(store.change_seq().await, Ok(jobs.total), "numbers went with what they were given to");
}

const FULL_DISK_VARIABLE: &str = "CHRONO_FLOW_TEST_FULL_DISK";

/// Not a test: the body of a child process that may not make files longer than a MiB.
#[tokio::test]
#[ignore]
async fn child_on_a_full_disk() {
    let Ok(location) = std::env::var(FULL_DISK_VARIABLE) else { return };
    let store = Sqlite::at(&location).open().await;
    for number in 0..10_000 {
        match store.create_job(JobSpec::new(&format!("job {number}"), "* * * * *", &"x".repeat(20_000)), NOON).await {
            Ok(written) => println!("\nacknowledged {}", written.job.id),
            Err(StoreError::Unavailable(why)) => {
                println!("\nfull: {why}");
                assert!(store.job(JobId(1)).await.unwrap().is_some(), "what is there can still be read");
                return;
            }
            Err(other) => panic!("{other}"),
        }
    }
    panic!("it never was full");
}

#[tokio::test]
async fn a_full_disk_is_unavailable_and_loses_nothing() {
    let harness = Sqlite::fresh();
    let child = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "sqlite::child_on_a_full_disk", "--ignored", "--nocapture"])
        .env(FULL_DISK_VARIABLE, harness.location())
        .output()
        .unwrap();
    let said = String::from_utf8(child.stdout).unwrap();
    assert!(child.status.success() && said.contains("\nfull: "), "{said}\n{}", String::from_utf8_lossy(&child.stderr));
    let acknowledged = said.lines().filter(|line| line.starts_with("acknowledged ")).count();
    assert!(acknowledged > 10, "{said}");
    let store = harness.open().await;
    assert_eq!(store.jobs(&JobFilter::default(), None, 100).await.unwrap().total, acknowledged as u64);
    store.create_job(spec("next"), NOON).await.expect("with room again, all goes on");
    suite::reopen(&harness, store).await;
}
