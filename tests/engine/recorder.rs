//! The driver over a real log and a real store, without a worker: what has ended reaches the store, whatever it comes in.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono_flow::consensus::{self, NoPeers, NodeConfig};
use chrono_flow::engine::core::Settings;
use chrono_flow::engine::driver::{self, EngineConfig, Machine};
use chrono_flow::ledger::{Command, encode_entry};
use chrono_flow::model::{Job, JobId, JobSpec, Reason, RunId};
use chrono_flow::rpc::link::{Connection, Dial};
use chrono_flow::shutdown::Shutdown;
use chrono_flow::store::Store;
use chrono_flow::store::sqlite::SqliteStore;

use super::world::{CLUSTER, DAY};

/// More than the recorder writes in one transaction.
const RUNS: u128 = 2_500;

struct Nobody;

#[async_trait]
impl Dial for Nobody {
    async fn dial(&self, _address: &str) -> io::Result<Connection> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_ends_more_runs_than_one_transaction_takes_is_recorded_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&dir.path().join("db")).unwrap());
    let (machine, shared) = Machine::new();
    let members = BTreeMap::from([(1, "here".to_owned())]);
    let node = consensus::start(NodeConfig::new(1, dir.path().join("raft"), CLUSTER, members), machine, NoPeers).unwrap();
    let config = EngineConfig {
        cluster: CLUSTER,
        settings: Settings { lookahead_ms: 2_000, unrecorded_max: 1_000_000 },
        clock_skew_ms: 500,
        history_days: 30,
        history_runs: 1_000_000,
    };
    let shutdown = Shutdown::default();
    let (engine, _tasks) = driver::start(config, store.clone(), node.clone(), shared, Arc::new(Nobody), shutdown.clone());
    let mut status = node.status();
    status.wait_for(|status| status.first_own_applied).await.unwrap();

    let mut spec = JobSpec::new("j", "* * * * * *", "true");
    spec.is_enabled = false;
    let job = Job { id: JobId(1), revision: 1, change_seq: 1, created_at: DAY, updated_at: DAY, effective_from: DAY, spec };
    let ids: Vec<RunId> = (0..RUNS).map(|n| RunId::at(DAY, n)).collect();
    let asked = ids.iter().map(|run| Command::Trigger { at: DAY, job: JobId(1), run: *run, has_key: false, session: None });
    let ended = ids.iter().map(|run| Command::Cancel { at: DAY, run: *run, reason: Reason::Requested });
    let commands: Vec<Command> = std::iter::once(Command::PutJob(Box::new(job))).chain(asked).chain(ended).collect();
    node.propose(encode_entry(&commands)).await.unwrap();

    let recorded = async {
        while engine.unrecorded() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), recorded).await.expect("the ledger never gets rid of them");
    for id in ids {
        assert!(store.run(id).await.unwrap().is_some(), "run {id} is not in the store");
    }
    shutdown.request();
    node.stop().await;
}
