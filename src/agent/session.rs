//! The worker's sessions with its cluster: opened with what the journal proves, kept by heartbeats, opened anew when one is over
//! (PROTOCOL C1, C3). Grants count from when the heartbeat was sent, on BOOTTIME.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::driver::{AgentStatus, Command, Granted};
use super::links::{Backoff, Links, Missed};
use super::timer;
use crate::model::limits::HEARTBEAT_MS;
use crate::model::{ClusterId, RunId, SessionId, WorkerId};
use crate::rpc::wire::{CloseSession, Grant, Heartbeat, OpenSession, PROTOCOL_VERSION, Refusal, SessionOpened};

const HEARTBEAT: Duration = Duration::from_millis(HEARTBEAT_MS as u64);
/// How long an answer to a heartbeat may take: two may fail before the permit is over.
const HEARTBEAT_DEADLINE: Duration = Duration::from_secs(2);
/// The same for an answer to a request for a session: it may wait in a connection that is dead. Whoever missed an answer asks again and
/// does no harm (PROTOCOL C1), and a leader that takes longer could not keep a session either.
const OPEN_DEADLINE: Duration = HEARTBEAT_DEADLINE;
/// How long a worker that stops tries to say so.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait for a connection to a controller before the next one is asked.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);
/// A refusal that stays the same is said again after so many attempts.
const ATTEMPTS_BETWEEN_WARNINGS: u32 = 120;
/// Refusals are not worth a word before so many: a leader is being elected.
const ATTEMPTS_QUIET: u32 = 3;

/// What the agent's tasks share.
pub(super) struct Shared {
    pub worker: WorkerId,
    pub data_dir: Uuid,
    pub address: String,
    pub labels: BTreeMap<String, String>,
    pub slots: u32,
    pub commands: mpsc::Sender<Command>,
    pub status: watch::Receiver<AgentStatus>,
    pub links: Arc<Links>,
    /// The session is given up, and no other one is wanted: no heartbeat any more, and nothing opened anew.
    pub has_left: AtomicBool,
}

impl Shared {
    pub(super) fn cluster(&self) -> Option<ClusterId> {
        self.status.borrow().cluster
    }

    /// Waits until a session is open.
    pub(super) async fn session_open(&self) -> SessionId {
        loop {
            if let Some(session) = self.status.borrow().session {
                return session;
            }
            if self.status.clone().wait_for(|status| status.session.is_some()).await.is_err() {
                // The driver has ended, and soon this task will.
                std::future::pending::<()>().await;
            }
        }
    }

    /// False: the driver has ended.
    pub(super) async fn acknowledged(&self, runs: Vec<(RunId, u64)>) -> bool {
        runs.is_empty() || self.commands.send(Command::Acknowledged(runs)).await.is_ok()
    }

    pub(super) async fn session_over(&self, session: SessionId) {
        log::warn!("the leader says that session {session} is over: registering anew");
        let _ = self.commands.send(Command::SessionOver { session }).await;
    }
}

/// Opens sessions, one after the other.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        if !open(&shared).await {
            return;
        }
        if shared.status.clone().wait_for(|status| status.session.is_none()).await.is_err() {
            return;
        }
        if shared.has_left.load(Ordering::Relaxed) {
            return; // a heartbeat that was on its way has said what is wanted
        }
        log::warn!("the session is over: what has not started is given back");
    }
}

/// Opens a session with whichever controller leads; false: the driver has ended.
async fn open(shared: &Shared) -> bool {
    let mut backoff = Backoff::default();
    let (mut said, mut attempts) = (String::new(), 0);
    // What an attempt has opened without this worker's hearing of it: nothing was ever done in it.
    let mut newest = None;
    loop {
        // What runs may end between two attempts, so it is asked each time.
        let (reply, claims) = oneshot::channel();
        if shared.commands.send(Command::Claims { newest, reply }).await.is_err() {
            return false;
        }
        let Ok(claims) = claims.await else { return false };
        let request = OpenSession {
            cluster: claims.cluster,
            protocol_version: PROTOCOL_VERSION,
            worker: shared.worker.clone(),
            data_dir: shared.data_dir,
            address: shared.address.clone(),
            labels: shared.labels.clone(),
            slots: shared.slots,
            now: timer::now().wall(),
            previous: claims.previous,
            not_started: claims.not_started,
            adopted: claims.adopted,
            to_report: claims.to_report,
            journal_is_whole: claims.journal_is_whole,
        };
        let leader = shared.links.leader();
        let _ = tokio::time::timeout(CONNECT_PATIENCE, leader.is_connected()).await;
        let sent_us = timer::boottime_us();
        match leader.call(OPEN_DEADLINE, |client, context| async move { client.open_session(context, request).await }).await {
            Ok(opened) => return enter(shared, sent_us, opened).await,
            Err(missed) => {
                let text = format!("{}: {missed}", leader.address);
                let is_news = attempts >= ATTEMPTS_QUIET && !matches!(missed, Missed::NotConnected);
                if is_news && (text != said || attempts % ATTEMPTS_BETWEEN_WARNINGS == 0) {
                    log::warn!("no session yet: {text}");
                    said = text;
                }
                attempts += 1;
                if let Missed::Refused(Refusal::NewerSession { newest: theirs }) = missed
                    && newest < Some(theirs)
                {
                    newest = Some(theirs);
                    continue; // it was the leader who answered
                }
                if let Missed::Refused(Refusal::NotLeader { address: Some(leader), .. }) = &missed {
                    shared.links.refer(leader);
                }
                shared.links.try_another_leader();
            }
        }
        backoff.wait().await;
    }
}

async fn enter(shared: &Shared, sent_us: i64, opened: SessionOpened) -> bool {
    let SessionOpened { cluster, session, term, grant } = opened;
    let granted = granted(sent_us, &grant);
    let (reply, entered) = oneshot::channel();
    if shared.commands.send(Command::Opened { cluster, session, term, granted, reply }).await.is_err() || entered.await.is_err() {
        return false;
    }
    log::debug!("worker {} has session {session} of cluster {cluster}", shared.worker);
    // The status follows the entry; without this the caller could see the one before it.
    shared.status.clone().wait_for(|status| status.session.is_some()).await.is_ok()
}

fn granted(sent_us: i64, grant: &Grant) -> Granted {
    let end = |ms: u64| sent_us.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX / 1000).saturating_mul(1000));
    Granted { permit_end_us: end(grant.permit_ms), lease_end_us: end(grant.lease_ms), recorded_up_to: grant.recorded_up_to }
}

/// Gives the session up: nothing of it runs, and nothing more will start. What is assigned to it goes to others at once instead of after
/// the lease. Tried until `LEAVE_PATIENCE` is over.
pub(super) async fn leave(shared: &Shared) {
    let (cluster, session) = {
        let status = shared.status.borrow();
        let (Some(cluster), Some(session)) = (status.cluster, status.session) else { return };
        (cluster, session)
    };
    shared.has_left.store(true, Ordering::Relaxed);
    let request = CloseSession { cluster, worker: shared.worker.clone(), session };
    let mut backoff = Backoff::default();
    let tries = async {
        loop {
            let (leader, request) = (shared.links.leader(), request.clone());
            match leader.call(HEARTBEAT_DEADLINE, |client, context| async move { client.close_session(context, request).await }).await {
                Ok(()) => return,
                Err(Missed::Refused(Refusal::NotLeader { address: Some(leader), .. })) => shared.links.refer(&leader),
                Err(_) => {}
            }
            shared.links.try_another_leader();
            backoff.wait().await;
        }
    };
    if tokio::time::timeout(LEAVE_PATIENCE, tries).await.is_err() {
        log::warn!("no leader has taken the end of this session: what it was to start waits until its lease is over");
    }
}

/// Sends heartbeats to one controller, whether it leads or not, so that one that begins to lead knows this worker.
pub(super) async fn heartbeats(shared: Arc<Shared>, index: usize) {
    let link = shared.links.get(index);
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut drains = pin!(begins_to_drain(shared.clone()).fuse());
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            // Others get what was staged here while there is time.
            () = &mut drains => {}
        }
        let session = shared.session_open().await;
        link.is_connected().await;
        if shared.has_left.load(Ordering::Relaxed) {
            return;
        }
        let Some(heartbeat) = heartbeat(&shared, session) else { continue };
        let sent_us = timer::boottime_us();
        match link.call(HEARTBEAT_DEADLINE, |client, context| async move { client.heartbeat(context, heartbeat).await }).await {
            Ok(grant) => {
                shared.links.set_leader(index);
                let granted = granted(sent_us, &grant);
                if shared.commands.send(Command::Granted { session, term: grant.term, granted }).await.is_err() {
                    return;
                }
            }
            Err(Missed::Refused(Refusal::OtherSession { .. })) => shared.session_over(session).await,
            Err(Missed::Refused(Refusal::NotLeader { address: Some(leader), .. })) => shared.links.refer(&leader),
            Err(Missed::Refused(Refusal::NotLeader { .. }) | Missed::NotConnected) => {}
            Err(missed) => log::debug!("a heartbeat to {} was not granted: {missed}", link.address),
        }
    }
}

/// Never, if the driver has ended.
async fn begins_to_drain(shared: Arc<Shared>) {
    if shared.status.clone().wait_for(|status| status.is_draining).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn heartbeat(shared: &Shared, session: SessionId) -> Option<Heartbeat> {
    let status = shared.status.borrow();
    Some(Heartbeat {
        cluster: status.cluster?,
        worker: shared.worker.clone(),
        session,
        now: timer::now().wall(),
        slots: shared.slots,
        running: status.counts.running,
        waiting: status.counts.waiting,
        is_draining: status.is_draining,
        trouble: status.trouble.as_deref().map(str::to_string),
    })
}
