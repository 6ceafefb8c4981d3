//! A controller of a cluster: API, engine, and its member of the Raft group, beside the other controllers and the workers.
//!
//! Start: lock the directory, bind both ports, serve the API and the peers at once (they are told what is waited for), find out which
//! cluster this is, then consensus and the engine. What is late is waited for, with a word in the log: the database, the peers.
//! Stop is the reverse; a leader hands over first.

mod gate;
mod late;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::config::{ControllerConfig, DatabaseConfig};
use crate::consensus::{self, Handle, NodeConfig, PeerQueues};
use crate::engine::core::Settings;
use crate::engine::driver::{self, EngineConfig, Machine};
use crate::http;
use crate::ledger::Reply;
use crate::model::{ClusterId, NodeId};
use crate::peers::founding::{self, Founding};
use crate::peers::{PeerCalls, PeerLinks};
use crate::role::{STOP_WAIT, Signals, block_on, cluster_secret, give_back_memory, take_data_dir};
use crate::rpc::dial::TcpDial;
use crate::rpc::handshake::{Name, Service};
use crate::rpc::listen::Listener;
use crate::shutdown::Shutdown;
use crate::store::postgres::{PostgresConfig, PostgresStore};
use crate::store::{self, Store, StoreError};

use gate::{ForPeers, Gate, ToPeers};
use late::LateEngine;

/// What a controller serves.
const SERVICES: &[Service] = &[Service::Controller, Service::Peer, Service::PeerSnapshots];
/// How often the database is asked again while it is away, and how often that is said.
const STORE_AGAIN: Duration = Duration::from_millis(500);
const STORE_SAID_EVERY: Duration = Duration::from_secs(10);

/// Runs until a signal asks it to stop, or a part fails.
pub fn run(config: ControllerConfig) -> Result<()> {
    block_on(serve(config))
}

/// How the store is reached.
fn postgres(database: &DatabaseConfig) -> PostgresConfig {
    PostgresConfig {
        password: database.password.clone(),
        password_file: database.password_file.clone(),
        ca_file: database.ca_file.clone(),
        ..PostgresConfig::new(&database.url)
    }
}

/// `chrono-flow migrate`; says what it did.
pub fn migrate(database: &DatabaseConfig) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("can't start the runtime")?;
    runtime.block_on(store::postgres::migrate(&postgres(database)))
}

/// What is there from the beginning.
struct Surroundings {
    config: ControllerConfig,
    store: Arc<PostgresStore>,
    dial: TcpDial,
    cluster: watch::Sender<Option<ClusterId>>,
    late: Arc<LateEngine>,
    gate: Arc<Gate>,
}

/// What decides, once it is there.
struct Running {
    node: Handle<Vec<Reply>>,
    tasks: Vec<JoinHandle<()>>,
    shutdown: Shutdown,
    /// Ends with this.
    _links: PeerLinks,
}

async fn serve(config: ControllerConfig) -> Result<()> {
    let _lock = take_data_dir(&config.data_dir)?;
    let mut signals = Signals::listen()?;
    let secret = cluster_secret(&config.cluster_secret)?;
    let settings = http::Settings { allowed_hosts: config.http.hosts.clone(), ..http::Settings::default() };
    let server = http::Server::bind(&config.http.listen, settings).await?;
    let listener = Listener::bind(&config.rpc_listen, secret.clone()).await?;
    let store = Arc::new(PostgresStore::open(&postgres(&config.database)).context("the database can't be used")?);
    greet(&config, &server, &listener)?;

    let cluster = watch::Sender::new(None);
    let dial = TcpDial::new(secret, cluster.subscribe(), Name::Controller(config.node_id));
    let late = Arc::new(LateEngine::new(config.cluster.clone()));
    let gate = Arc::new(Gate::new(late.clone()));
    let (stop_http, stop_rpc) = (Shutdown::default(), Shutdown::default());
    let api = {
        let (services, stop_http) = (http::Services { store: store.clone(), engine: late.clone() }, stop_http.clone());
        tokio::spawn(async move { server.run(services, async move { stop_http.requested().await }).await })
    };
    let rpc = {
        let (gate, known, stop_rpc) = (gate.clone(), cluster.subscribe(), stop_rpc.clone());
        let handle = move |hello, stream| gate.clone().serve(hello, stream);
        tokio::spawn(async move { listener.run(SERVICES, known, handle, stop_rpc.requested()).await })
    };
    let surroundings = Surroundings { config, store, dial, cluster, late, gate };
    let started = tokio::select! {
        started = surroundings.start() => Some(started),
        () = signals.next() => None,
    };
    let ended = match started {
        None => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok(mut running)) => {
            let ended = running.until_stop(&mut signals).await;
            running.stop(&stop_http, ended.is_ok()).await;
            ended
        }
    };
    stop_http.request();
    stop_rpc.request();
    let _ = tokio::time::timeout(STOP_WAIT, futures::future::join(api, rpc)).await;
    if ended.is_ok() {
        log::info!("stopped");
    }
    ended
}

fn greet(config: &ControllerConfig, server: &http::Server, listener: &Listener) -> Result<()> {
    let rpc = listener.local_addr().context("can't read the address that it listens on")?;
    let (api, id) = (server.local_addr(), config.node_id);
    log::info!("chrono-flow {}: controller {id} of {} starts", env!("CARGO_PKG_VERSION"), config.cluster.len());
    log::info!("  data  {}", config.data_dir.display());
    log::info!("  API   http://{api}");
    log::info!("  RPC   {rpc}");
    if !api.ip().is_loopback() {
        log::warn!("the API listens on {}: whoever reaches it can have commands run", config.http.listen);
    }
    Ok(())
}

impl Surroundings {
    /// Brings up what decides; waits for what it needs as long as that takes.
    async fn start(&self) -> Result<Running> {
        let config = &self.config;
        let raft = config.data_dir.join("raft");
        let (cluster, seed_members) = match consensus::describe(&raft)? {
            Some(identity) => (identity.cluster_id, config.cluster.clone()),
            None => self.found().await?,
        };
        self.cluster.send_replace(Some(cluster));
        self.store.expect_cluster(cluster);
        let node_config =
            NodeConfig { election_timeout_ms: config.election_timeout_ms, ..NodeConfig::new(config.node_id, raft, cluster, seed_members) };
        let (machine, shared) = Machine::new();
        let queues = PeerQueues::default();
        let node = consensus::start(node_config, machine, queues.clone()).context("the ledger can't be opened")?;
        let shutdown = Shutdown::default();
        let calls = PeerCalls::new(config.node_id, config.cluster.clone(), queues.watch_members(), self.dial.to(Service::Peer));
        let links = PeerLinks::start(config.node_id, config.cluster.clone(), queues, Arc::new(node.clone()), &self.dial);
        let engine_config = EngineConfig {
            cluster,
            settings: Settings { lookahead_ms: config.engine.lookahead_ms, unrecorded_max: config.engine.unrecorded_max },
            clock_skew_ms: config.engine.clock_skew_ms,
            history_days: config.engine.history_days,
            history_runs: config.engine.history_runs,
        };
        let workers = self.dial.to(Service::Worker);
        let (engine, tasks) =
            driver::start(engine_config, self.store.clone(), node.clone(), shared, workers, Arc::new(ToPeers(calls)), shutdown.clone());
        self.gate.peers.open(Arc::new(node.clone()), Arc::new(ForPeers(engine.clone())));
        self.late.came(engine);
        give_back_memory();
        Ok(Running { node, tasks, shutdown, _links: links })
    }

    /// An empty directory: founds the cluster together with the others, or joins the one that is there (PROTOCOL G1).
    async fn found(&self) -> Result<(ClusterId, BTreeMap<NodeId, String>)> {
        let config = &self.config;
        self.late.waits_for("waiting for the other controllers".into());
        let founding = founding::decide(config.node_id, &config.cluster, self.dial.to(Service::Peer)).await?;
        match founding {
            Founding::Found { cluster } => {
                let cluster = match cluster {
                    Some(cluster) => cluster,
                    None => self.cluster_of_database().await?,
                };
                Ok((cluster, config.cluster.clone()))
            }
            Founding::Join { cluster } => {
                let mut others = config.cluster.clone();
                others.remove(&config.node_id);
                Ok((cluster, others))
            }
        }
    }

    /// The database says which cluster this is; a new one is named by whoever comes first.
    async fn cluster_of_database(&self) -> Result<ClusterId> {
        let candidate = ClusterId(Uuid::new_v4());
        let mut said = None;
        loop {
            match self.store.found_cluster(candidate).await {
                Ok(cluster) => return Ok(cluster),
                Err(error @ StoreError::Refused(_)) => return Err(error).context("the database can't be used"),
                Err(error) => {
                    let waiting = format!("waiting for the database: {error}");
                    if said.is_none_or(|at: tokio::time::Instant| at.elapsed() >= STORE_SAID_EVERY) {
                        log::warn!("{waiting}");
                        said = Some(tokio::time::Instant::now());
                    }
                    self.late.waits_for(waiting);
                    tokio::time::sleep(STORE_AGAIN).await;
                }
            }
        }
    }
}

impl Running {
    /// Returns when a signal asks to stop; an error if a part has failed.
    async fn until_stop(&mut self, signals: &mut Signals) -> Result<()> {
        let status = self.node.status();
        let mut node_ends = status.clone();
        tokio::select! {
            () = signals.next() => Ok(()),
            _ = async { while node_ends.changed().await.is_ok() {} } => {
                bail!("the ledger has failed: {}", status.borrow().failed.clone().unwrap_or_default())
            }
            (ended, _, _) = futures::future::select_all(self.tasks.iter_mut()) => bail!("the engine has failed: {ended:?}"),
        }
    }

    /// Hands over what it leads, lets requests end, then stops deciding.
    async fn stop(self, stop_http: &Shutdown, is_asked: bool) {
        if is_asked && self.node.status().borrow().is_leader() {
            match self.node.transfer_leadership(None).await {
                Ok(()) => log::info!("stopping: leadership was handed over"),
                Err(error) => log::warn!("stopping without a hand-over: {error}"),
            }
        } else if is_asked {
            log::info!("stopping");
        }
        stop_http.request();
        self.shutdown.request();
        self.node.stop().await;
    }
}
