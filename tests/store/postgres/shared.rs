//! Several stores on one database, as several controllers have them.

use std::sync::Arc;
use std::time::Duration;

use chrono_flow::model::{ClusterId, JobId, RunState};
use chrono_flow::store::postgres::{PostgresStore, migrate};
use chrono_flow::store::{Retention, Store, StoreError};
use uuid::Uuid;

use super::OnPostgres;
use crate::suite::{Harness, NOON, record, run, run_id, spec};

/// More than one day, so that partitions are made by several at once.
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

async fn three() -> (OnPostgres, Vec<Arc<PostgresStore>>) {
    let harness = OnPostgres::fresh();
    let mut stores = Vec::new();
    for _ in 0..3 {
        stores.push(harness.open().await);
    }
    (harness, stores)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_on_several_stores_get_dense_numbers_in_the_order_of_commits() {
    let (_harness, stores) = three().await; // nobody has made the schema yet: they do it at once
    let writers = stores.iter().enumerate().flat_map(|(index, store)| {
        (0..4).map(move |task| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut seqs = Vec::new();
                for edit in 0..10 {
                    let name = format!("job {index} {task} {edit}");
                    seqs.push(store.create_job(spec(&name), NOON).await.unwrap().job.change_seq);
                }
                assert!(seqs.is_sorted());
                seqs
            })
        })
    });
    let mut seqs = Vec::new();
    let mut position = 0;
    let writers: Vec<_> = writers.collect();
    while !writers.iter().all(|writer| writer.is_finished()) {
        // Who follows the feed never sees a number appear behind its back.
        for change in stores[0].changes(position, 7).await.unwrap() {
            assert_eq!(change.seq, position + 1);
            position = change.seq;
        }
    }
    for writer in writers {
        seqs.extend(writer.await.unwrap());
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=120).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_through_one_store_wakes_the_others() {
    let (_harness, stores) = three().await;
    for number in 1..=5 {
        let mut signals: Vec<_> = stores.iter().map(|store| store.change_signal()).collect();
        let seq = stores[number % 3].create_job(spec(&format!("job {number}")), NOON).await.unwrap().job.change_seq;
        for signal in &mut signals {
            let heard = signal.wait_for(|known| *known == seq);
            tokio::time::timeout(Duration::from_secs(10), heard).await.expect("heard in time").unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_founders_all_learn_the_same_cluster() {
    let (_harness, stores) = three().await;
    let founders = stores.iter().zip(1..).map(|(store, number)| {
        let store = store.clone();
        tokio::spawn(async move { store.found_cluster(ClusterId(Uuid::from_u128(number))).await.unwrap() })
    });
    let mut learned = Vec::new();
    for founder in founders.collect::<Vec<_>>() {
        learned.push(founder.await.unwrap());
    }
    assert!(learned.iter().all(|cluster| *cluster == learned[0]), "{learned:?}");
    assert_eq!(stores[2].cluster().await, Ok(Some(learned[0])));
    assert!(matches!(stores[1].bind_cluster(ClusterId(Uuid::from_u128(9))).await, Err(StoreError::Refused(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_migrate_at_once() {
    let harness = OnPostgres::fresh();
    let migrations = (0..5).map(|_| {
        let config = harness.config();
        tokio::spawn(async move { migrate(&config).await.unwrap() })
    });
    let mut said = Vec::new();
    for migration in migrations.collect::<Vec<_>>() {
        said.push(migration.await.unwrap());
    }
    let made = said.iter().filter(|text| text.contains("was made")).count();
    assert!(said.iter().all(|text| text.contains("was made") || text.contains("up to date")), "{said:?}");
    assert!(made >= 1, "{said:?}");
    assert!(migrate(&harness.config()).await.unwrap().contains("up to date"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_schema_is_refused() {
    let harness = OnPostgres::fresh();
    migrate(&harness.config()).await.unwrap();
    let raw = harness.raw().await;
    let insert = "INSERT INTO chrono_flow_schema SELECT 999, 'from_the_future', applied_on, checksum FROM chrono_flow_schema LIMIT 1";
    raw.batch_execute(insert).await.unwrap();
    let store = harness.open().await;
    let Err(StoreError::Refused(why)) = store.check().await else { panic!("it was taken") };
    assert!(why.contains("newer version") && why.contains("schema 999"), "{why}");
    assert!(migrate(&harness.config()).await.unwrap_err().to_string().contains("newer version"));
    raw.batch_execute("DELETE FROM chrono_flow_schema WHERE version = 999").await.unwrap();
    assert_eq!(store.check().await, Ok(()), "once the newer version is gone, it goes on");
    raw.batch_execute("UPDATE chrono_flow_schema SET checksum = '5'").await.unwrap();
    let Err(StoreError::Refused(why)) = harness.open().await.check().await else { panic!("it was taken") };
    assert!(why.contains("has another schema 1"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_are_made_and_dropped_by_several_at_once() {
    let (_harness, stores) = three().await;
    let tasks = stores.iter().enumerate().map(|(index, store)| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..8i64 {
                // The same runs through each store, on four days each round.
                let runs: Vec<_> = (0..40u64)
                    .map(|number| {
                        let number = number + 40 * round as u64;
                        run(number, JobId(1), NOON + (number as i64 / 10) * DAY_MS, RunState::Succeeded)
                    })
                    .collect();
                record(&*store, index as u64 + 1, &runs).await;
                if index == 0 {
                    let retention = Retention { older_than: Some(NOON + 4 * round.min(5) * DAY_MS), runs_max: None, batch_max: 25 };
                    store.prune_runs(retention).await.unwrap();
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let store = &stores[0];
    let retention = Retention { older_than: Some(NOON + 20 * DAY_MS), runs_max: None, batch_max: 1_000 };
    while store.prune_runs(retention).await.unwrap() >= 1_000 {}
    let left = store.runs(&Default::default(), None, 1_000).await.unwrap();
    assert_eq!(left.len(), 320 - 200);
    assert!(store.run(run_id(199)).await.unwrap().is_none() && store.run(run_id(200)).await.unwrap().is_some());
    // The count was kept through all of it.
    let keep = |runs_max| Retention { older_than: None, runs_max: Some(runs_max), batch_max: 1_000 };
    assert_eq!(store.prune_runs(keep(120)).await, Ok(0));
    assert_eq!(store.prune_runs(keep(105)).await, Ok(15));
}
