//! The worker of a cluster: an agent whose connections to and from the controllers are TCP.
//!
//! Start: lock the directory, read the secret, listen, start the agent (its guardian first, while the process is small). A controller that
//! can't be reached is waited for; a second word to stop ends a drain.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;

use crate::agent::{self, Agent, AgentConfig};
use crate::config::WorkerConfig;
use crate::model::{ClusterId, WorkerId};
use crate::role::{STOP_WAIT, Signals, block_on, cluster_secret, take_data_dir};
use crate::rpc::dial::TcpDial;
use crate::rpc::handshake::{Hello, Name, Service};
use crate::rpc::listen::Listener;
use crate::shutdown::Shutdown;

/// What a worker serves.
const SERVICES: &[Service] = &[Service::Worker];

/// Runs until a signal asks it to stop, or a part fails.
pub fn run(config: WorkerConfig) -> Result<()> {
    block_on(serve(config))
}

async fn serve(config: WorkerConfig) -> Result<()> {
    let _lock = take_data_dir(&config.data_dir)?;
    let mut signals = Signals::listen()?;
    let secret = cluster_secret(&config.cluster_secret)?;
    let listener = Listener::bind(&config.rpc_listen, secret.clone()).await?;
    let address = listener.local_addr().context("can't read the address that it listens on")?;

    let cluster = watch::Sender::new(None);
    let name = WorkerId(config.name.clone());
    let dial = TcpDial::new(secret, cluster.subscribe(), Name::Worker(name.clone())).to(Service::Controller);
    let agent = Agent::start(agent_config(&config, name), config.controllers.clone(), dial).await.context("the worker can't start")?;
    let agent = Arc::new(agent);
    let joined = cluster.subscribe();
    let following = tokio::spawn(follow_cluster(agent.watch_status(), cluster));
    let stop_rpc = Shutdown::default();
    let serving = {
        let (agent, stop_rpc) = (agent.clone(), stop_rpc.clone());
        let handle = move |_: Hello, stream| {
            let served = agent.serve(stream);
            async move { drop(served.await) }
        };
        tokio::spawn(async move { listener.run(SERVICES, joined, handle, stop_rpc.requested()).await })
    };
    log::info!(
        "chrono-flow {}: worker {} with {} slots listens on {address} and is reached at {}; data in {}",
        env!("CARGO_PKG_VERSION"),
        config.name,
        config.execution.slots,
        config.rpc_advertise,
        config.data_dir.display()
    );

    let mut fails = agent.fatal();
    let ended = tokio::select! {
        () = signals.next() => Ok(()),
        _ = fails.wait_for(Option::is_some) => Err(agent.fatal().borrow().clone().unwrap_or_default()),
    };
    if ended.is_ok() {
        log::info!("stopping: running commands get up to {} s (a second signal ends them at once)", config.execution.drain_s);
        tokio::select! {
            () = agent.drain() => {}
            () = signals.next() => log::warn!("running commands are ended now"),
        }
    }
    stop_rpc.request();
    following.abort();
    let _ = tokio::time::timeout(STOP_WAIT, serving).await;
    match Arc::try_unwrap(agent) {
        Ok(agent) => agent.stop().await,
        // A connection is still being closed; the agent ends with the last of them.
        Err(agent) => drop(agent),
    }
    match ended {
        Ok(()) => {
            log::info!("stopped");
            Ok(())
        }
        Err(why) => bail!("the worker has failed: {why}"),
    }
}

fn agent_config(config: &WorkerConfig, worker: WorkerId) -> AgentConfig {
    AgentConfig {
        worker,
        data_dir: config.data_dir.join("worker"),
        address: config.rpc_advertise.clone(),
        labels: config.execution.labels.clone(),
        slots: config.execution.slots,
        guardian_exe: "/proc/self/exe".into(),
        drain_ms: config.execution.drain_s * 1000,
        spool_bytes_max: agent::SPOOL_BYTES_MAX_DEFAULT,
    }
}

/// A worker joins the first cluster that takes it, and stays with it: its connections name it from then on.
async fn follow_cluster(mut status: watch::Receiver<agent::AgentStatus>, cluster: watch::Sender<Option<ClusterId>>) {
    loop {
        let known = status.borrow_and_update().cluster;
        cluster.send_if_modified(|cluster| std::mem::replace(cluster, known) != known);
        if status.changed().await.is_err() {
            return;
        }
    }
}
