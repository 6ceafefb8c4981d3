//! The feed: brings changes of jobs from the store into the ledger, in the order in which they were committed (PROTOCOL A2). Notifications
//! only wake it; the ledger's position decides.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::api::EngineError;
use crate::ledger::Command;
use crate::model::UnixMs;
use crate::shutdown::Shutdown;
use crate::store::{Change, ChangeKind, StoreError};

use super::handle::Inner;
use super::queue::fitting;

/// The store is asked at least so often: a half-open connection notifies nobody.
const POLL: Duration = Duration::from_secs(5);
/// Wait after a failure.
const AGAIN: Duration = Duration::from_millis(500);
/// While this node has no licence it looks so often whether it got one.
const LICENCE_POLL: Duration = Duration::from_millis(100);
/// Changes that are fetched and proposed at once, at most.
const CHANGES_MAX: u32 = 500;
/// Tombstones are kept for so long after the feed has passed them.
const TOMBSTONES_KEPT_MS: i64 = 24 * 3600 * 1000;

pub async fn run(inner: Arc<Inner>, shutdown: Shutdown) {
    let mut signal = inner.store.change_signal();
    // Changes up to here were in the store before this ledger was founded: they take effect now (PROTOCOL A5).
    let mut import_up_to = None;
    while !shutdown.is_requested() {
        if !inner.is_licensed() {
            tokio::select! {
                biased;
                () = until_licensed(&inner) => {}
                () = watch_store(&inner) => {}
                () = shutdown.requested() => {}
            }
            continue;
        }
        signal.mark_unchanged();
        let wait = match bring(&inner, &mut import_up_to).await {
            Ok(true) => continue,
            Ok(false) => {
                inner.soft.set_feed_has_looked();
                POLL
            }
            Err(error) => {
                log::debug!("the feed waits: {error}");
                inner.soft.set_feed_has_looked();
                AGAIN
            }
        };
        tokio::select! {
            biased;
            _ = signal.changed(), if wait == POLL => {}
            () = tokio::time::sleep(wait) => {}
            () = shutdown.requested() => {}
        }
    }
}

async fn until_licensed(inner: &Inner) {
    while !inner.is_licensed() {
        tokio::time::sleep(LICENCE_POLL).await;
    }
}

/// A follower has no changes to bring, but it serves what the store has, and `/readyz` says whether it can. Goes on for ever.
async fn watch_store(inner: &Inner) {
    loop {
        let wait = if note(inner, inner.store.change_seq().await).is_ok() { POLL } else { AGAIN };
        tokio::time::sleep(wait).await;
    }
}

/// Brings the next changes; answers whether there may be more.
async fn bring(inner: &Inner, import_up_to: &mut Option<u64>) -> anyhow::Result<bool> {
    let position = inner.shared.ledger().feed();
    let newest = note(inner, inner.store.change_seq().await)?;
    if newest < position {
        let trouble = format!(
            "the database is older than the ledger: it ends at change {newest}, the ledger has change {position}. It was restored from a backup? \
             To go on with the jobs of this database, stop, move the ledger's directory (raft) away, and start again"
        );
        if inner.soft.set_feed_trouble(Some(trouble.clone())) {
            log::error!("{trouble}");
        }
        anyhow::bail!(trouble);
    }
    inner.soft.set_feed_trouble(None);
    if position == 0 && import_up_to.is_none() {
        *import_up_to = Some(newest);
    }
    let changes = note(inner, inner.store.changes(position, CHANGES_MAX).await)?;
    if changes.is_empty() {
        let old = inner.clock.wall() - TOMBSTONES_KEPT_MS;
        note(inner, inner.store.prune_tombstones(position, old).await)?;
        return Ok(false);
    }
    let is_more = changes.len() == CHANGES_MAX as usize;
    let imported = import_up_to.unwrap_or(0);
    let mut commands: Vec<Command> = changes.into_iter().map(|change| command(change, imported, inner.clock.wall())).collect();
    // What doesn't fit into one entry is fetched again.
    let fitting = fitting(&commands);
    let is_more = is_more || fitting < commands.len();
    commands.truncate(fitting);
    inner.proposer.propose(commands).await.map_err(|error: EngineError| anyhow::anyhow!(error))?;
    Ok(is_more)
}

fn command(change: Change, imported: u64, now: UnixMs) -> Command {
    match change.kind {
        ChangeKind::Put(mut job) => {
            if change.seq <= imported {
                job.effective_from = job.effective_from.max(now);
            }
            Command::PutJob(job)
        }
        ChangeKind::Drop { id, revision, effective_from } => Command::DropJob { id, revision, effective_from, change_seq: change.seq },
    }
}

/// Keeps `/readyz` informed about the store.
pub(super) fn note<T>(inner: &Inner, result: Result<T, StoreError>) -> Result<T, StoreError> {
    let trouble = result.as_ref().err().map(ToString::to_string);
    let text = trouble.clone();
    if inner.soft.set_store_trouble(trouble) {
        match text {
            Some(text) => log::error!("the store fails; schedules go on from the ledger, history waits there: {text}"),
            None => log::info!("the store works again"),
        }
    }
    result
}
