//! What the leader is to be told of runs: news that they run, and that they have ended, which is repeated until acknowledged.
//!
//! One report is on its way at a time; what comes up meanwhile makes the next one. Nothing waits longer than that, except the news of a
//! start, which waits a little: most short runs end within it and need no news.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::links::{Backoff, Links, Missed};
use super::runs::Ended;
use super::session::Shared;
use super::timer::boottime_us;
use crate::model::{Epoch, RunId, SessionId, UnixMs};
use crate::rpc::wire::{REPORT_BATCH_RUNS_MAX, Refusal, Report, ReportAck, RunEvent, RunReport};

/// How long the news of a start waits for the run's end.
const STARTED_WAIT_US: i64 = 25_000;
/// Bytes of output in one report, at most: half a frame.
const REPORT_BATCH_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How long an answer to a report may take.
const REPORT_DEADLINE: Duration = Duration::from_secs(10);

/// What is to be told. The driver fills it, the reporter empties it. It holds no more than the table of runs does.
#[derive(Default)]
pub struct Outbox {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    started: VecDeque<(i64, RunId)>,
    news: HashMap<RunId, (Epoch, UnixMs)>,
    ended: VecDeque<Arc<Ended>>,
}

/// One report's worth.
#[derive(Default)]
struct Batch {
    news: Vec<(RunId, Epoch, UnixMs)>,
    ended: Vec<Arc<Ended>>,
}

impl Outbox {
    /// Nothing panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn started(&self, run: RunId, epoch: Epoch, at: UnixMs) {
        let mut state = self.lock();
        let was_empty = state.started.is_empty();
        state.started.push_back((boottime_us() + STARTED_WAIT_US, run));
        state.news.insert(run, (epoch, at));
        drop(state);
        if was_empty {
            self.wake.notify_one();
        }
    }

    pub fn ended(&self, ended: Arc<Ended>) {
        let mut state = self.lock();
        state.news.remove(&ended.run);
        state.ended.push_back(ended);
        drop(state);
        self.wake.notify_one();
    }

    /// Waits until there is something to tell.
    async fn take(&self) -> Batch {
        loop {
            let (batch, wait) = self.lock().take(boottime_us());
            if !batch.is_empty() {
                return batch;
            }
            match wait {
                Some(wait) => drop(tokio::time::timeout(wait, self.wake.notified()).await),
                None => self.wake.notified().await,
            }
        }
    }

    /// Puts back what was not acknowledged. News are not repeated.
    fn put_back(&self, ended: Vec<Arc<Ended>>) {
        let mut state = self.lock();
        for ended in ended.into_iter().rev() {
            state.ended.push_front(ended);
        }
    }
}

impl State {
    /// A batch, and how long to wait if it is empty.
    fn take(&mut self, now_us: i64) -> (Batch, Option<Duration>) {
        let mut batch = Batch::default();
        let mut bytes = 0;
        while let Some(ended) = self.ended.front() {
            bytes += ended.inline_bytes();
            if batch.ended.len() == REPORT_BATCH_RUNS_MAX || (bytes > REPORT_BATCH_BYTES_MAX && !batch.ended.is_empty()) {
                break;
            }
            batch.ended.extend(self.ended.pop_front());
        }
        while let Some((due_us, run)) = self.started.front().copied() {
            let Some((epoch, at)) = self.news.get(&run).copied() else {
                self.started.pop_front();
                continue;
            };
            if due_us > now_us {
                return (batch, Some(Duration::from_micros((due_us - now_us) as u64)));
            }
            if batch.ended.len() + batch.news.len() == REPORT_BATCH_RUNS_MAX {
                break;
            }
            self.started.pop_front();
            self.news.remove(&run);
            batch.news.push((run, epoch, at));
        }
        (batch, None)
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.news.is_empty() && self.ended.is_empty()
    }

    fn reports(&self) -> Vec<RunReport> {
        let news = self.news.iter().map(|(run, epoch, at)| RunReport { run: *run, epoch: *epoch, event: RunEvent::Started { at: *at } });
        let ended = self.ended.iter().map(|ended| RunReport {
            run: ended.run,
            epoch: ended.epoch,
            event: RunEvent::Ended { outcome: ended.outcome.clone(), output: ended.output.clone() },
        });
        news.chain(ended).collect()
    }
}

/// Tells the leader, until the end of the runtime or of the agent.
pub async fn run(shared: Arc<Shared>, outbox: Arc<Outbox>) {
    let mut backoff = Backoff::default();
    loop {
        let batch = outbox.take().await;
        let session = shared.session_open().await;
        match send(&shared.links, &shared, session, &batch).await {
            Ok(ack) => {
                let acknowledged: Vec<(RunId, u64)> =
                    batch.ended.iter().map(|ended| ended.run).zip(ack.closed_at.iter().copied()).collect();
                let missing = batch.ended.get(acknowledged.len()..).unwrap_or_default().to_vec();
                let is_whole = missing.is_empty();
                outbox.put_back(missing);
                if !shared.acknowledged(acknowledged).await {
                    return;
                }
                if is_whole {
                    backoff.reset();
                    continue;
                }
            }
            Err(missed) => {
                outbox.put_back(batch.ended);
                match &missed {
                    Missed::Refused(Refusal::OtherSession { .. }) => shared.session_over(session).await,
                    Missed::Refused(Refusal::NotLeader { .. }) | Missed::NotConnected => shared.links.try_another_leader(),
                    Missed::Refused(_) | Missed::Broken(_) => {}
                }
                log::debug!("a report of runs was not taken: {missed}");
            }
        }
        backoff.wait().await;
    }
}

async fn send(links: &Links, shared: &Shared, session: SessionId, batch: &Batch) -> Result<ReportAck, Missed> {
    let Some(cluster) = shared.cluster() else { return Err(Missed::NotConnected) };
    let report = Report { cluster, worker: shared.worker.clone(), session, runs: batch.reports() };
    links.leader().call(REPORT_DEADLINE, |client, context| async move { client.report(context, report).await }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{JobId, Outcome, OutputPart, RunState, Stream};
    use uuid::Uuid;

    fn run(n: u128) -> RunId {
        RunId(Uuid::from_u128(n))
    }

    fn ended(n: u128, bytes: usize) -> Arc<Ended> {
        let outcome = Outcome::unstarted(RunState::Succeeded, None, UnixMs(1));
        let output = Some(vec![OutputPart { offset: 0, stream: Stream::Stdout, bytes: vec![0; bytes] }]);
        Arc::new(Ended { run: run(n), epoch: 1, job: JobId(1), job_name: "job".into(), outcome, output, spooled_bytes: 0 })
    }

    #[test]
    fn the_news_of_a_start_is_told_late_and_not_at_all_if_the_run_has_ended() {
        let outbox = Outbox::default();
        outbox.started(run(1), 1, UnixMs(1));
        outbox.started(run(2), 1, UnixMs(1));
        let (batch, wait) = outbox.lock().take(boottime_us());
        assert!(batch.is_empty() && wait.is_some());
        outbox.ended(ended(1, 0));
        let (batch, _) = outbox.lock().take(boottime_us() + STARTED_WAIT_US);
        assert_eq!((batch.ended[0].run, batch.news[0].0, batch.news.len()), (run(1), run(2), 1));
        let (batch, wait) = outbox.lock().take(boottime_us() + STARTED_WAIT_US);
        assert!(batch.is_empty() && wait.is_none());
    }

    #[test]
    fn a_report_is_bounded_in_runs_and_bytes_and_what_is_put_back_comes_first() {
        let outbox = Outbox::default();
        for n in 0..2500 {
            outbox.ended(ended(n, 10));
        }
        let (batch, _) = outbox.lock().take(0);
        assert_eq!(batch.reports().len(), REPORT_BATCH_RUNS_MAX);
        outbox.put_back(batch.ended);
        assert_eq!(outbox.lock().take(0).0.ended[0].run, run(0));
        let outbox = Outbox::default();
        for n in 0..1000 {
            outbox.ended(ended(n, 16 * 1024));
        }
        let (batch, _) = outbox.lock().take(0);
        assert_eq!(batch.ended.len(), 256);
    }
}
