//! A database that is not there, goes away, or hangs.

use std::time::{Duration, Instant};

use chrono_flow::model::{JobId, RunState};
use chrono_flow::store::postgres::{PostgresConfig, PostgresStore};
use chrono_flow::store::{RecordBatch, RunRecord, Store, StoreError};

use super::{OnPostgres, until};
use crate::postgres_server::Postgres;
use crate::suite::{Harness, NOON, open_fresh, record, run, run_id, spec};

/// Beyond this no call may take, whatever the server does.
const CALL_S_MAX: u64 = 9;

async fn assert_unavailable_in_time(store: &PostgresStore) {
    let began = Instant::now();
    let answer = store.create_job(spec("while it is away"), NOON).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(CALL_S_MAX), "after {:?}", began.elapsed());
    assert!(!format!("{answer:?}").contains("p@ss"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_may_be_opened_before_its_database_is_there() {
    let mut server = Postgres::prepare(&[]);
    let store = PostgresStore::open(&PostgresConfig::new(&server.url())).unwrap();
    let mut signal = store.change_signal();
    assert_unavailable_in_time(&store).await;
    assert!(matches!(store.check().await, Err(StoreError::Unavailable(_))));
    server.start_again();
    assert_eq!(store.check().await, Ok(()));
    assert_eq!(store.create_job(spec("job"), NOON).await.unwrap().job.change_seq, 1);
    signal.changed().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_is_unavailable_and_loses_nothing() {
    let (mut harness, store) = open_fresh::<OnPostgres>().await;
    store.create_job(spec("before"), NOON).await.unwrap();
    for stop in [Postgres::stop, Postgres::stop_immediate] {
        record(&*store, 1, &[run(1, JobId(1), NOON, RunState::Succeeded)]).await;
        stop(harness.server());
        assert_unavailable_in_time(&store).await;
        harness.server().start_again();
        until("it goes on", || async { store.check().await.is_ok() }).await;
        assert_eq!(store.change_seq().await, Ok(1));
        assert!(store.run(run_id(1)).await.unwrap().is_some());
    }
    // The ear comes back too: another's change is heard without asking.
    let other = harness.open().await;
    let mut signal = store.change_signal();
    signal.borrow_and_update();
    let seq = other.create_job(spec("after"), NOON).await.unwrap().job.change_seq;
    tokio::time::timeout(Duration::from_secs(20), signal.wait_for(|known| *known == seq)).await.expect("heard in time").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_unavailable_in_time() {
    let (mut harness, store) = open_fresh::<OnPostgres>().await;
    store.create_job(spec("before"), NOON).await.unwrap();
    harness.server().pause();
    let calls = (0..12).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { assert_unavailable_in_time(&store).await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    harness.server().resume();
    until("it goes on", || async { store.check().await.is_ok() }).await;
    // Whether what was asked for meanwhile is done may be unknown, but it is done whole or not at all.
    let is_done = store.job_by_name("while it is away").await.unwrap().is_some();
    assert_eq!(store.change_seq().await, Ok(1 + u64::from(is_done)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_only_reads_is_unavailable_for_writes() {
    let (harness, store) = open_fresh::<OnPostgres>().await;
    store.create_job(spec("job"), NOON).await.unwrap();
    let raw = harness.raw().await;
    raw.batch_execute("ALTER DATABASE postgres SET default_transaction_read_only = on").await.unwrap();
    let store = crate::suite::reopen(&harness, store).await;
    let batch =
        RecordBatch { runs: vec![RunRecord { ledger_index: 1, run: run(1, JobId(1), NOON, RunState::Failed) }], output: Vec::new() };
    for answer in [store.check().await, store.record(batch).await.map(drop)] {
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    }
    assert!(store.job(JobId(1)).await.unwrap().is_some(), "what is there can be read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_for_connections_is_unavailable() {
    let server = Postgres::start_with(&["superuser_reserved_connections=0"]);
    let url = server.fresh_database().await;
    let mut taken = Vec::new();
    while let Ok((client, connection)) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await {
        tokio::spawn(connection);
        taken.push(client);
    }
    let store = PostgresStore::open(&PostgresConfig::new(&url)).unwrap();
    let answer = store.check().await;
    assert!(matches!(&answer, Err(StoreError::Unavailable(why)) if why.contains("53300")), "{answer:?}");
    drop(taken);
    until("it goes on", || async { store.check().await.is_ok() }).await;
}
