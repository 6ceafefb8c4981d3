//! The store of a cluster: one PostgreSQL database, with jobs and history, shared by all controllers.
//!
//! - It may be away: `open` needs no server, and whoever comes first when it is there brings the schema up to date (`schema`). Each call
//!   ends within `CALL_MS_MAX` or `BULK_MS_MAX`, whatever the server does; what it does not do is `Unavailable`.
//! - Durable: a commit has been synced when a call answers (PROTOCOL F2).
//! - A pool of connections, each with its statements prepared (`connect`), and one more that listens for changes (`listen`).
//! - History lies in partitions, one a day (`days`), which retention drops whole (`retention`).
//! - SQL lies in `sql/postgres`: numbered migrations, and one file a query.
//! - Left out: poolers that give a session another connection with each transaction (PgBouncer's transaction mode). LISTEN, prepared
//!   statements and settings of a session need their own.

mod config;
mod connect;
mod days;
mod error;
mod jobs;
mod listen;
mod output;
mod retention;
mod runs;
mod schema;
mod text;

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{GenericClient, Pool};
use tokio::sync::{OnceCell, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use self::config::Target;
pub use self::config::{POOL_MAX_DEFAULT, PostgresConfig};
use self::connect::{Connector, Session};
use self::error::{Fault, Outcome};
use super::{
    Change, JobFilter, JobPage, RecordBatch, Result, Retention, RunCursor, RunFilter, SetAside, Store, StoreError, StoredOutput, Written,
};
use crate::model::{ClusterId, Job, JobId, JobSpec, Revision, Run, RunId, UnixMs};

/// How long a call may take, the wait for a connection included.
const CALL_MS_MAX: u64 = 7_000;
/// The same for what writes or removes many rows at once.
const BULK_MS_MAX: u64 = 20_000;
/// How often a transaction is begun again that was in another's way, and the wait before it.
const TRIES_MAX: u32 = 5;
const AGAIN_WAIT_MS: u64 = 20;

/// The text of a query, by the name of its file.
macro_rules! sql {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/postgres/queries/", $name, ".sql"))
    };
}
use sql;

/// The store in a database. Dropping it closes its connections.
pub struct PostgresStore {
    connector: Connector,
    pool: Pool,
    /// Set once the schema was seen to be this program's.
    ready: OnceCell<()>,
    /// The cluster that the database must belong to, and whether it was seen to.
    expected: OnceLock<ClusterId>,
    bound: OnceCell<()>,
    signal: watch::Sender<u64>,
    listener: AbortHandle,
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Brings a database's schema up to date; says, in a sentence, what was done.
///
/// # Errors
/// Bad settings, a database that can't be reached or is a newer version's.
pub async fn migrate(settings: &PostgresConfig) -> anyhow::Result<String> {
    let connector = Connector(Target::of(settings)?);
    let place = connector.0.place.clone();
    let prepared = schema::prepare(&connector).await.map_err(StoreError::from)?;
    Ok(match (prepared.before, prepared.after) {
        (before, after) if before == after => format!("{place}: the schema is up to date (version {after})"),
        (0, after) => format!("{place}: the schema was made (version {after})"),
        (before, after) => format!("{place}: the schema was brought from version {before} to {after}"),
    })
}

impl PostgresStore {
    /// A store in the database that the settings name, which need not be there yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `Refused`: the settings can't be used; the message says which one, and what to do.
    pub fn open(settings: &PostgresConfig) -> Result<PostgresStore> {
        let connector = Connector(Target::of(settings)?);
        let pool = connector.pool(settings.pool_max)?;
        let signal = watch::Sender::new(0);
        let listener = tokio::spawn(listen::listen(connector.0.clone(), signal.clone())).abort_handle();
        Ok(PostgresStore { connector, pool, ready: OnceCell::new(), expected: OnceLock::new(), bound: OnceCell::new(), signal, listener })
    }

    /// Where the database is, for people: hosts and database, no user and no password.
    pub fn place(&self) -> &str {
        &self.connector.0.place
    }

    /// Closes all connections. Calls that come later are `Unavailable`.
    pub fn close(&self) {
        self.listener.abort();
        self.pool.close();
    }

    /// A connection to a database that is known to have the right schema.
    async fn session(&self) -> Outcome<Session> {
        self.ready.get_or_try_init(|| self.prepare()).await?;
        let session = Session::of(&self.pool).await?;
        if let Some(expected) = self.expected.get() {
            self.bound.get_or_try_init(|| self.bind(&session, *expected)).await?;
        }
        Ok(session)
    }

    /// From now on nothing is read or written in a database of another cluster: every call is then `Refused`. The first one counts. A
    /// database that is away is checked when it is there.
    pub fn expect_cluster(&self, cluster: ClusterId) {
        let _ = self.expected.set(cluster);
    }

    async fn bind(&self, session: &Session, cluster: ClusterId) -> Outcome<()> {
        match found_cluster(session, cluster).await? {
            bound if bound == cluster => Ok(()),
            bound => Err(self.other_cluster(bound, cluster).into()),
        }
    }

    fn other_cluster(&self, bound: ClusterId, cluster: ClusterId) -> StoreError {
        StoreError::Refused(format!(
            "the database {} belongs to cluster {bound}, not to {cluster}; name the database that it was made with, or an empty one",
            self.place()
        ))
    }

    /// In a task of its own: a caller that loses patience must not undo a long migration.
    async fn prepare(&self) -> Outcome<()> {
        if self.pool.is_closed() {
            return Err(StoreError::Unavailable("the store is closed".into()).into());
        }
        let connector = self.connector.clone();
        match tokio::spawn(async move { schema::prepare(&connector).await }).await {
            Ok(prepared) => prepared.map(drop),
            Err(error) => Err(StoreError::Internal(format!("the check of the schema ended: {error}")).into()),
        }
    }

    /// Does `work` within `ms_max`, again if it was in another's way.
    async fn within<T, F>(&self, ms_max: u64, work: impl Fn() -> F + Send) -> Result<T>
    where
        F: Future<Output = Outcome<T>> + Send,
    {
        let tries = async {
            let mut tries = 1;
            loop {
                match work().await {
                    Err(Fault::Again(_)) if tries < TRIES_MAX => {
                        sleep(Duration::from_millis(AGAIN_WAIT_MS * u64::from(tries))).await;
                        tries += 1;
                    }
                    done => return done.map_err(StoreError::from),
                }
            }
        };
        match timeout(Duration::from_millis(ms_max), tries).await {
            Ok(done) => done,
            Err(_) => Err(StoreError::Unavailable(format!("{} does not answer within {ms_max} ms", self.place()))),
        }
    }

    /// Wakes who waits for changes in this process, without the way through the server.
    fn raise(&self, seq: u64) {
        self.signal.send_if_modified(|known| {
            let is_newer = seq > *known;
            *known = seq.max(*known);
            is_newer
        });
    }

    fn written(&self, written: Result<Written>) -> Result<Written> {
        if let Ok(Written { job, is_changed: true, .. }) = &written {
            self.raise(job.change_seq);
        }
        written
    }
}

/// Does `$work` with a session named `$session`, which goes back to the pool if it is of further use.
macro_rules! with_session {
    ($store:ident, $ms_max:expr, |$session:ident| $work:expr) => {
        $store
            .within($ms_max, || async {
                #[allow(unused_mut)] // what only reads needs none
                let mut $session = $store.session().await?;
                let outcome = $work.await;
                $session.finish(outcome)
            })
            .await
    };
}

#[async_trait]
impl Store for PostgresStore {
    async fn bind_cluster(&self, cluster: ClusterId) -> Result<()> {
        match self.found_cluster(cluster).await? {
            bound if bound == cluster => Ok(()),
            bound => Err(self.other_cluster(bound, cluster)),
        }
    }

    async fn cluster(&self) -> Result<Option<ClusterId>> {
        with_session!(self, CALL_MS_MAX, |session| cluster_of(&session))
    }

    async fn found_cluster(&self, candidate: ClusterId) -> Result<ClusterId> {
        with_session!(self, CALL_MS_MAX, |session| found_cluster(&session, candidate))
    }

    async fn create_job(&self, spec: JobSpec, now: UnixMs) -> Result<Written> {
        self.written(with_session!(self, CALL_MS_MAX, |session| jobs::create(&mut session, &spec, now)))
    }

    async fn replace_job(&self, id: JobId, expected: Option<Revision>, spec: JobSpec, now: UnixMs) -> Result<Written> {
        self.written(with_session!(self, CALL_MS_MAX, |session| jobs::replace(&mut session, id, expected, &spec, now)))
    }

    async fn put_job_by_name(&self, expected: Option<Revision>, spec: JobSpec, now: UnixMs) -> Result<Written> {
        self.written(with_session!(self, CALL_MS_MAX, |session| jobs::put_by_name(&mut session, expected, &spec, now)))
    }

    async fn delete_job(&self, id: JobId, expected: Option<Revision>, now: UnixMs) -> Result<u64> {
        let seq = with_session!(self, CALL_MS_MAX, |session| jobs::delete(&mut session, id, expected, now))?;
        self.raise(seq);
        Ok(seq)
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>> {
        with_session!(self, CALL_MS_MAX, |session| jobs::job(&session, id))
    }

    async fn job_by_name(&self, name: &str) -> Result<Option<Job>> {
        with_session!(self, CALL_MS_MAX, |session| jobs::job_by_name(&session, name))
    }

    async fn jobs(&self, filter: &JobFilter, after: Option<JobId>, limit: u32) -> Result<JobPage> {
        with_session!(self, CALL_MS_MAX, |session| jobs::list(&session, filter, after, limit))
    }

    async fn job_existed(&self, id: JobId) -> Result<bool> {
        with_session!(self, CALL_MS_MAX, |session| jobs::existed(&session, id))
    }

    async fn changes(&self, after: u64, limit: u32) -> Result<Vec<Change>> {
        with_session!(self, CALL_MS_MAX, |session| jobs::changes(&session, after, limit))
    }

    async fn change_seq(&self) -> Result<u64> {
        let seq = with_session!(self, CALL_MS_MAX, |session| jobs::change_seq(&session))?;
        self.raise(seq);
        Ok(seq)
    }

    fn change_signal(&self) -> watch::Receiver<u64> {
        self.signal.subscribe()
    }

    async fn prune_tombstones(&self, up_to: u64, older_than: UnixMs) -> Result<u64> {
        with_session!(self, BULK_MS_MAX, |session| jobs::prune_tombstones(&session, up_to, older_than))
    }

    async fn record(&self, batch: RecordBatch) -> Result<Vec<SetAside>> {
        with_session!(self, BULK_MS_MAX, |session| runs::record(&mut session, &batch))
    }

    async fn run(&self, id: RunId) -> Result<Option<Run>> {
        with_session!(self, CALL_MS_MAX, |session| runs::run(&session, id))
    }

    async fn runs(&self, filter: &RunFilter, after: Option<RunCursor>, limit: u32) -> Result<Vec<Run>> {
        with_session!(self, CALL_MS_MAX, |session| runs::list(&session, filter, after, limit))
    }

    async fn last_runs(&self, jobs: &[JobId]) -> Result<Vec<Run>> {
        with_session!(self, CALL_MS_MAX, |session| runs::last_of_each(&session, jobs))
    }

    async fn output(&self, run: RunId, offset: u64, bytes_max: u32) -> Result<StoredOutput> {
        with_session!(self, CALL_MS_MAX, |session| output::read(&session, run, offset, bytes_max))
    }

    async fn prune_runs(&self, retention: Retention) -> Result<u64> {
        with_session!(self, BULK_MS_MAX, |session| retention::prune(&mut session, retention))
    }

    async fn check(&self) -> Result<()> {
        with_session!(self, CALL_MS_MAX, |session| turn(&session))
    }
}

async fn cluster_of(session: &Session) -> Outcome<Option<ClusterId>> {
    let rows = query(&**session, sql!("cluster_id"), &[]).await?;
    Ok(rows.first().map(|row| row.try_get(0).map(ClusterId)).transpose()?)
}

async fn found_cluster(session: &Session, candidate: ClusterId) -> Outcome<ClusterId> {
    if let Some(bound) = cluster_of(session).await? {
        return Ok(bound);
    }
    execute(&**session, sql!("cluster_found"), &[&candidate.0]).await?; // waits for another founder's commit
    Ok(cluster_of(session).await?.unwrap_or(candidate))
}

async fn turn(session: &Session) -> Outcome<()> {
    execute(&**session, sql!("check_turn"), &[]).await.map(drop)
}

type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

async fn query(client: &impl GenericClient, text: &str, values: Values<'_>) -> Outcome<Vec<Row>> {
    let statement = client.prepare_cached(text).await?;
    Ok(client.query(&statement, values).await?)
}

async fn one(client: &impl GenericClient, text: &str, values: Values<'_>) -> Outcome<Row> {
    let rows = query(client, text, values).await?;
    rows.into_iter().next().ok_or_else(|| StoreError::Internal("a row that is always there is missing".into()).into())
}

async fn execute(client: &impl GenericClient, text: &str, values: Values<'_>) -> Outcome<u64> {
    let statement = client.prepare_cached(text).await?;
    Ok(client.execute(&statement, values).await?)
}

/// A number as PostgreSQL holds it.
fn signed(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| StoreError::Internal(format!("the number {number} is beyond what a column holds")))
}

fn unsigned(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| StoreError::Internal(format!("a column holds {number}, which can't be")))
}
