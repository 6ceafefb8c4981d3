//! Connections: one that is made and prepared for what the store does with it, and the pool of them.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::time::Duration;

use deadpool_postgres::{Connect, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

use super::config::Target;
use super::error::{Fault, Outcome};
use crate::store::{Result, StoreError};

/// How long a caller waits for a connection to be free, and for a new one: TCP, TLS and the log-in together.
const POOL_WAIT_MS_MAX: u64 = 4_000;
const OPEN_MS_MAX: u64 = 4_000;

/// What each connection is told first. A statement ends before its caller's patience does, at the latest; a lock is not waited for without
/// end; a transaction whose owner has stopped lets go of its locks. What is answered is on disk (PROTOCOL F2), whatever the server's
/// default is. Lists over many partitions look dear enough to be compiled, which takes longer than to run them.
const PREPARE: &str = "SET statement_timeout = '20s'; SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '10s';
    SET default_transaction_isolation = 'read committed'; SET client_min_messages = warning; SET jit = off;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector(pub(super) Target);

type Opened = std::result::Result<(Client, JoinHandle<()>), tokio_postgres::Error>;

impl Connector {
    async fn open(target: Target) -> Opened {
        let Target { config, tls, .. } = target;
        let (client, task) = match tls {
            Some(tls) => {
                let (client, connection) = config.connect(tls).await?;
                (client, tokio::spawn(drive(connection)))
            }
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                (client, tokio::spawn(drive(connection)))
            }
        };
        client.batch_execute(PREPARE).await?;
        Ok((client, task))
    }

    /// A connection outside of the pool, which ends when the client is dropped.
    pub(super) async fn alone(&self) -> Outcome<Client> {
        match timeout(Duration::from_millis(OPEN_MS_MAX), Connector::open(self.0.clone())).await {
            Ok(opened) => Ok(opened?.0),
            Err(_) => Err(Fault::Store(StoreError::Unavailable(format!("{} does not answer within {OPEN_MS_MAX} ms", self.0.place)))),
        }
    }

    pub(super) fn pool(&self, connections_max: usize) -> Result<Pool> {
        let manager = Manager::from_connect(self.0.config.clone(), self.clone(), ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let limit = |ms| Some(Duration::from_millis(ms));
        let timeouts = Timeouts { wait: limit(POOL_WAIT_MS_MAX), create: limit(OPEN_MS_MAX), recycle: limit(OPEN_MS_MAX) };
        let pool = Pool::builder(manager).max_size(connections_max.max(1)).timeouts(timeouts).runtime(Runtime::Tokio1).build();
        pool.map_err(|error| StoreError::Internal(format!("the pool can't be built: {error}")))
    }
}

impl Connect for Connector {
    fn connect(&self, _: &tokio_postgres::Config) -> Pin<Box<dyn Future<Output = Opened> + Send + '_>> {
        Box::pin(Connector::open(self.0.clone()))
    }
}

async fn drive(connection: impl Future<Output = std::result::Result<(), tokio_postgres::Error>>) {
    if let Err(error) = connection.await {
        log::debug!("a connection to PostgreSQL ended: {}", super::error::describe(&error));
    }
}

/// A connection of the pool, in use. Only `finish` gives it back: one whose caller has lost patience may have an answer on its way that
/// never comes, and is closed.
pub(super) struct Session {
    object: Option<Object>,
}

impl Session {
    pub(super) async fn of(pool: &Pool) -> Outcome<Session> {
        Ok(Session { object: Some(pool.get().await?) })
    }

    /// Gives the connection back, unless the outcome says that it, or the server that it leads to, is of no use any more.
    pub(super) fn finish<T>(mut self, outcome: Outcome<T>) -> Outcome<T> {
        if !matches!(outcome, Err(Fault::Store(StoreError::Unavailable(_)))) {
            drop(self.object.take()); // into the pool
        }
        outcome
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object)); // out of the pool
        }
    }
}

const IN_USE: &str = "the connection is there until `finish` or drop, which end the session";

impl Deref for Session {
    type Target = Object;
    fn deref(&self) -> &Object {
        self.object.as_ref().expect(IN_USE)
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Object {
        self.object.as_mut().expect(IN_USE)
    }
}
