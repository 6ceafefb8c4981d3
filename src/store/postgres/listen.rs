//! The ear: a connection outside of the pool that hears of changes to jobs, and comes back when it is lost. It only wakes; who misses a
//! notice polls (PROTOCOL A2).

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls};

use super::config::Target;
use super::error::{Fault, Outcome, describe};
use crate::store::StoreError;

const RETRY_MS_MIN: u64 = 200;
const RETRY_MS_MAX: u64 = 5_000;
/// How long the connection and its LISTEN may take.
const BEGIN_MS_MAX: u64 = 8_000;
/// A question now and then finds out that a server has gone without a word.
const PROBE_MS: u64 = 15_000;
const PROBE_ANSWER_MS_MAX: u64 = 8_000;

/// Listens until it is aborted.
pub(super) async fn listen(target: Target, signal: watch::Sender<u64>) {
    let mut wait_ms = RETRY_MS_MIN;
    loop {
        let mut was_heard = false;
        let Err(fault) = hear(&target, &signal, &mut was_heard).await;
        log::debug!("listening to {} ended: {}", target.place, StoreError::from(fault));
        wait_ms = if was_heard { RETRY_MS_MIN } else { (wait_ms * 2).min(RETRY_MS_MAX) };
        sleep(Duration::from_millis(wait_ms)).await;
    }
}

type Never = std::convert::Infallible;

async fn hear(target: &Target, signal: &watch::Sender<u64>, was_heard: &mut bool) -> Outcome<Never> {
    let limit = Duration::from_millis(BEGIN_MS_MAX);
    match &target.tls {
        Some(tls) => {
            let connected = timeout(limit, target.config.connect(tls.clone())).await.map_err(|_| silent(target))?;
            let (client, connection) = connected?;
            hear_on(target, client, connection, signal, was_heard).await
        }
        None => {
            let connected = timeout(limit, target.config.connect(NoTls)).await.map_err(|_| silent(target))?;
            let (client, connection) = connected?;
            hear_on(target, client, connection, signal, was_heard).await
        }
    }
}

async fn hear_on<S, T>(
    target: &Target,
    client: Client,
    mut connection: Connection<S, T>,
    signal: &watch::Sender<u64>,
    was_heard: &mut bool,
) -> Outcome<Never>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let deliver = async {
        loop {
            match poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notification(notice))) => {
                    if let Ok(seq) = notice.payload().parse() {
                        set(signal, seq);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Fault::Store(StoreError::Unavailable(describe(&error))),
                None => return Fault::Store(StoreError::Unavailable("the connection was closed".into())),
            }
        }
    };
    let ask = async {
        let limit = Duration::from_millis(BEGIN_MS_MAX);
        timeout(limit, client.batch_execute("LISTEN chrono_flow_jobs")).await.map_err(|_| silent(target))??;
        loop {
            // After LISTEN, so that no change falls between the two.
            let limit = Duration::from_millis(PROBE_ANSWER_MS_MAX);
            let row = timeout(limit, client.query_one("SELECT change_seq FROM meta", &[])).await.map_err(|_| silent(target))??;
            set(signal, u64::try_from(row.get::<_, i64>(0)).unwrap_or(0));
            *was_heard = true;
            sleep(Duration::from_millis(PROBE_MS)).await;
        }
    };
    tokio::select! {
        fault = deliver => Err(fault),
        asked = ask => asked,
    }
}

/// As it is, lower too: a database that was restored goes on from an older number.
fn set(signal: &watch::Sender<u64>, seq: u64) {
    signal.send_if_modified(|known| std::mem::replace(known, seq) != seq);
}

fn silent(target: &Target) -> Fault {
    Fault::Store(StoreError::Unavailable(format!("{} does not answer", target.place)))
}
