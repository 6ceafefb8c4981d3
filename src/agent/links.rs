//! The agent's connections to the controllers, one each, kept open: a broken one is dialled again after a short while.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tarpc::client::{NewClient, RpcError};
use tarpc::context::{self, Context};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::rpc::ControllerClient;
use crate::rpc::codec;
pub use crate::rpc::link::Backoff;
use crate::rpc::link::{Connection, Dial};
use crate::rpc::wire::Refusal;

/// A connection that lived so long was a good one: the next attempt comes soon.
const GOOD_CONNECTION: Duration = Duration::from_secs(1);
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a call brought no result.
#[derive(Debug, thiserror::Error)]
pub enum Missed {
    #[error("there is no connection")]
    NotConnected,
    #[error("the connection broke: {0}")]
    Broken(RpcError),
    #[error("{0}")]
    Refused(Refusal),
}

pub struct Links {
    all: Vec<Link>,
    /// Which of them is thought to lead.
    leader: AtomicUsize,
}

pub struct Link {
    /// Where the controller is; also its name in the log.
    pub address: String,
    connected: watch::Sender<Option<Connected>>,
}

#[derive(Clone)]
struct Connected {
    client: ControllerClient,
    hang_up: CancellationToken,
}

impl Links {
    /// Starts a task for each controller, which ends with `shutdown`. There must be at least one address.
    pub fn start(controllers: Vec<String>, dial: Arc<dyn Dial>, shutdown: &CancellationToken) -> Arc<Links> {
        let all: Vec<Link> = controllers.into_iter().map(|address| Link { address, connected: watch::Sender::new(None) }).collect();
        let links = Arc::new(Links { all, leader: AtomicUsize::new(0) });
        for index in 0..links.count() {
            let (links, dial, shutdown) = (links.clone(), dial.clone(), shutdown.clone());
            tokio::spawn(async move { shutdown.run_until_cancelled(links.all[index].keep_open(&*dial)).await });
        }
        links
    }

    pub fn count(&self) -> usize {
        self.all.len()
    }

    pub fn get(&self, index: usize) -> &Link {
        &self.all[index]
    }

    /// The controller that is thought to lead.
    pub fn leader(&self) -> &Link {
        &self.all[self.leader.load(Ordering::Relaxed)]
    }

    pub fn set_leader(&self, index: usize) {
        self.leader.store(index, Ordering::Relaxed);
    }

    /// The one that was thought to lead does not.
    pub fn try_another_leader(&self) {
        let next = (self.leader.load(Ordering::Relaxed) + 1) % self.all.len();
        self.leader.store(next, Ordering::Relaxed);
    }
}

impl Link {
    async fn keep_open(&self, dial: &dyn Dial) {
        let mut backoff = Backoff::default();
        let mut is_said = false;
        loop {
            match tokio::time::timeout(DIAL_TIMEOUT, dial.dial(&self.address)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            {
                Ok(io) => {
                    if std::mem::take(&mut is_said) {
                        log::debug!("connected to {}", self.address);
                    }
                    let since = Instant::now();
                    self.converse(io).await;
                    if since.elapsed() >= GOOD_CONNECTION {
                        backoff.reset();
                    }
                }
                Err(error) if !is_said => {
                    is_said = true;
                    log::warn!("{} can't be reached, trying on: {error}", self.address);
                }
                Err(error) => log::debug!("{} can't be reached: {error}", self.address),
            }
            backoff.wait().await;
        }
    }

    /// Serves one connection until it breaks or somebody gives it up.
    async fn converse(&self, io: Connection) {
        let NewClient { client, dispatch } = ControllerClient::new(tarpc::client::Config::default(), codec::transport(io));
        let hang_up = CancellationToken::new();
        self.connected.send_replace(Some(Connected { client, hang_up: hang_up.clone() }));
        match hang_up.run_until_cancelled(dispatch).await {
            Some(Ok(())) | None => log::debug!("the connection to {} has ended", self.address),
            Some(Err(error)) => log::debug!("the connection to {} broke: {error}", self.address),
        }
        self.connected.send_replace(None);
    }

    /// Waits for a connection.
    pub async fn is_connected(&self) {
        // The sender lives as long as we do.
        let _ = self.connected.subscribe().wait_for(Option::is_some).await;
    }

    /// Waits until there is none.
    pub async fn is_lost(&self) {
        let _ = self.connected.subscribe().wait_for(Option::is_none).await;
    }

    /// Calls the controller. A call that misses its deadline gives the connection up, as nothing on it can be trusted to arrive.
    pub async fn call<T, F>(&self, deadline: Duration, call: impl FnOnce(ControllerClient, Context) -> F) -> Result<T, Missed>
    where
        F: Future<Output = Result<Result<T, Refusal>, RpcError>>,
    {
        let Some(Connected { client, hang_up }) = self.connected.borrow().clone() else { return Err(Missed::NotConnected) };
        let mut context = context::current();
        context.deadline = Instant::now() + deadline;
        match call(client, context).await {
            Ok(answer) => answer.map_err(Missed::Refused),
            Err(error) => {
                hang_up.cancel();
                Err(Missed::Broken(error))
            }
        }
    }
}
