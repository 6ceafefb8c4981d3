//! All roles in one process: API, controller, worker, embedded database; nothing but the API listens.
//!
//! Start: lock the directory, bind the API's port, start the worker (its guardian first, while the process is small), open the store,
//! start consensus, the engine, and serve. Stop is the reverse: the worker drains while the engine still takes its reports.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::agent::{self, Agent, AgentConfig};
use crate::config::StandaloneConfig;
use crate::consensus::{self, NoPeers, NodeConfig};
use crate::engine::api::Engine;
use crate::engine::core::Settings;
use crate::engine::driver::{self, EngineConfig, EngineHandle, Machine, NobodyElse};
use crate::http;
use crate::model::{ClusterId, NodeId, WorkerId};
use crate::role::{STOP_WAIT, Signals, block_on, give_back_memory, take_data_dir};
use crate::rpc::link::{Connection, Dial};
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::store::sqlite::SqliteStore;

const NODE: NodeId = 1;
const WORKER: &str = "standalone";
/// What the log calls the other side of the worker's connection.
const CONTROLLER: &str = "the controller of this process";
/// Bytes on their way between the two sides of an in-process connection, at most.
const PIPE_BYTES: usize = 256 * 1024;
/// How long what has ended may take to reach the store before the process ends; what does not is in the ledger, and comes later.
const RECORD_WAIT: Duration = Duration::from_secs(5);

/// Runs until a signal asks it to stop, or a part fails.
pub fn run(config: StandaloneConfig) -> Result<()> {
    block_on(serve(config))
}

async fn serve(config: StandaloneConfig) -> Result<()> {
    let started = std::time::Instant::now();
    let data_dir = config.data_dir.clone();
    let _lock = take_data_dir(&data_dir)?;
    let settings = http::Settings { allowed_hosts: config.http.hosts.clone(), ..http::Settings::default() };
    let server = http::Server::bind(&config.http.listen, settings).await?;
    let address = server.local_addr();

    let to_engine = Arc::new(ToEngine(watch::Sender::new(None)));
    let agent =
        Arc::new(Agent::start(agent_config(&config)?, vec![CONTROLLER.into()], to_engine.clone()).await.context("the worker can't start")?);
    let store = Arc::new(SqliteStore::open(&data_dir.join("chrono-flow.sqlite")).context("the database can't be opened")?);
    let cluster = cluster_id(&*store, &data_dir.join("raft")).await?;
    store.bind_cluster(cluster).await?;

    let (machine, shared) = Machine::new();
    let members = BTreeMap::from([(NODE, "in-process".to_owned())]);
    let node = consensus::start(NodeConfig::new(NODE, data_dir.join("raft"), cluster, members), machine, NoPeers)
        .context("the ledger can't be opened")?;
    let shutdown = Shutdown::default();
    let engine_config = EngineConfig {
        cluster,
        settings: Settings { lookahead_ms: config.engine.lookahead_ms, unrecorded_max: config.engine.unrecorded_max },
        clock_skew_ms: config.engine.clock_skew_ms,
        history_days: config.engine.history_days,
        history_runs: config.engine.history_runs,
    };
    let to_worker = Arc::new(ToWorker(Arc::downgrade(&agent)));
    let (engine, tasks) =
        driver::start(engine_config, store.clone(), node.clone(), shared, to_worker, Arc::new(NobodyElse), shutdown.clone());
    to_engine.0.send_replace(Some(engine.clone()));

    let stop_http = Shutdown::default();
    let services = http::Services { store: store.clone(), engine: Arc::new(engine.clone()) };
    let api = {
        let stop_http = stop_http.clone();
        tokio::spawn(async move { server.run(services, async move { stop_http.requested().await }).await })
    };
    wait_until_ready(&engine).await;
    give_back_memory();
    // Listened for throughout: one that comes right after the first is a second one.
    let mut signals = Signals::listen()?;
    greet(&config, &address.to_string(), &data_dir, started.elapsed());

    let ended = until_stop(&mut signals, &agent, &node, tasks).await;
    if ended.is_ok() {
        log::info!("stopping: running commands get up to {} s (again ctrl-C ends them at once)", config.execution.drain_s);
        tokio::select! {
            () = agent.drain() => {}
            () = signals.next() => log::warn!("running commands are ended now"),
        }
        recorded(&engine).await;
    }
    stop_http.request();
    shutdown.request();
    let _ = tokio::time::timeout(STOP_WAIT, api).await;
    node.stop().await;
    drop(to_engine);
    match Arc::try_unwrap(agent) {
        Ok(agent) => agent.stop().await,
        // A call from the engine is still on its way there.
        Err(agent) => drop(agent),
    }
    if let Err(error) = store.close().await {
        log::warn!("the database was not closed cleanly: {error}");
    }
    if ended.is_ok() {
        log::info!("stopped");
    }
    ended
}

fn agent_config(config: &StandaloneConfig) -> Result<AgentConfig> {
    Ok(AgentConfig {
        worker: WorkerId(WORKER.into()),
        data_dir: config.data_dir.join("worker"),
        address: "in-process".into(),
        labels: config.execution.labels.clone(),
        slots: config.execution.slots,
        guardian_exe: "/proc/self/exe".into(),
        drain_ms: config.execution.drain_s * 1000,
        spool_bytes_max: agent::SPOOL_BYTES_MAX_DEFAULT,
    })
}

/// The ledger's directory says which cluster this is; without one the database does; without both it is a new one.
async fn cluster_id(store: &dyn Store, raft: &Path) -> Result<ClusterId> {
    if let Some(identity) = consensus::describe(raft)? {
        return Ok(identity.cluster_id);
    }
    Ok(store.cluster().await?.unwrap_or_else(|| ClusterId(Uuid::new_v4())))
}

/// Waits for leader and worker, a while; the rest is said by `/readyz`.
async fn wait_until_ready(engine: &EngineHandle) {
    let patience = tokio::time::Instant::now() + STOP_WAIT;
    while !engine.readiness().is_ready() && tokio::time::Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn greet(config: &StandaloneConfig, address: &str, data_dir: &Path, took: Duration) {
    let data_dir = std::fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    log::info!("chrono-flow {} is ready after {} ms", env!("CARGO_PKG_VERSION"), took.as_millis());
    log::info!("  data  {}", data_dir.display());
    log::info!("  API   http://{address}");
    log::info!(
        "  try   curl -X POST http://{address}/jobs -H 'Content-Type: application/json' \
         -d '{{\"name\": \"hello\", \"schedule\": \"*/10 * * * * *\", \"command\": \"echo hello from $(hostname)\"}}'"
    );
    if !address.starts_with("127.") && !address.starts_with("[::1]") {
        log::warn!("the API listens on {}: whoever reaches it can run commands as this user", config.http.listen);
    }
}

/// Returns when a signal asks to stop; an error if a part has failed.
async fn until_stop<O: Send + 'static>(
    signals: &mut Signals,
    agent: &Agent,
    node: &consensus::Handle<O>,
    tasks: Vec<JoinHandle<()>>,
) -> Result<()> {
    let (fatal, status) = (agent.fatal(), node.status());
    let (mut worker_fails, mut node_ends) = (fatal.clone(), status.clone());
    tokio::select! {
        () = signals.next() => Ok(()),
        _ = worker_fails.wait_for(Option::is_some) => bail!("the worker has failed: {}", fatal.borrow().clone().unwrap_or_default()),
        _ = async { while node_ends.changed().await.is_ok() {} } => {
            bail!("the ledger has failed: {}", status.borrow().failed.clone().unwrap_or_default())
        }
        (ended, _, _) = futures::future::select_all(tasks) => bail!("the engine has failed: {ended:?}"),
    }
}

/// Gives the recorder time to write what has ended.
async fn recorded(engine: &EngineHandle) {
    let patience = tokio::time::Instant::now() + RECORD_WAIT;
    while engine.unrecorded() > 0 && tokio::time::Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How the worker reaches the controller.
struct ToEngine(watch::Sender<Option<EngineHandle>>);

#[async_trait]
impl Dial for ToEngine {
    async fn dial(&self, _address: &str) -> io::Result<Connection> {
        // The worker starts before the engine does.
        let mut started = self.0.subscribe();
        let engine = started.wait_for(Option::is_some).await.ok().and_then(|engine| engine.clone());
        let engine = engine.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the engine has stopped"))?;
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        tokio::spawn(async move { engine.serve_worker(theirs).await });
        Ok(Box::new(ours))
    }
}

/// How the leader reaches the worker.
struct ToWorker(Weak<Agent>);

#[async_trait]
impl Dial for ToWorker {
    async fn dial(&self, _address: &str) -> io::Result<Connection> {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let agent = self.0.upgrade().ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the worker has stopped"))?;
        agent.serve(theirs);
        Ok(Box::new(ours))
    }
}
