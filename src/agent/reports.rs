//! What controllers are to be told of runs: the leader that they have ended, which is repeated until acknowledged, and all of them which
//! ones run now.
//!
//! One report of ends is on its way at a time; what comes up meanwhile makes the next one. The news of a start waits a little: most short
//! runs end within it and need no news. A controller that was away is told of everything that runs when it is back.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

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
    /// The number of the newest start.
    starts: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// What runs, in the order in which it started: by number.
    running: BTreeMap<u64, Running>,
    numbers: HashMap<RunId, u64>,
    last_number: u64,
    ended: VecDeque<Arc<Ended>>,
}

#[derive(Clone, Copy)]
struct Running {
    run: RunId,
    epoch: Epoch,
    at: UnixMs,
    /// When it is told, on BOOTTIME.
    due_us: i64,
}

impl Outbox {
    /// Nothing panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn started(&self, run: RunId, epoch: Epoch, at: UnixMs) {
        let mut state = self.lock();
        state.last_number += 1;
        let number = state.last_number;
        state.numbers.insert(run, number);
        state.running.insert(number, Running { run, epoch, at, due_us: boottime_us() + STARTED_WAIT_US });
        drop(state);
        self.starts.send_replace(number);
    }

    pub fn ended(&self, ended: Arc<Ended>) {
        let mut state = self.lock();
        if let Some(number) = state.numbers.remove(&ended.run) {
            state.running.remove(&number);
        }
        state.ended.push_back(ended);
        drop(state);
        self.wake.notify_one();
    }

    /// Waits until there is something to tell.
    async fn take(&self) -> Vec<Arc<Ended>> {
        loop {
            let batch = self.lock().take();
            if !batch.is_empty() {
                return batch;
            }
            self.wake.notified().await;
        }
    }

    /// The next news behind `told`, once they are due, and the number that they reach to.
    async fn news(&self, told: u64) -> (u64, Vec<RunReport>) {
        let mut starts = self.starts.subscribe();
        loop {
            starts.mark_unchanged();
            let first = self.lock().running.range(told + 1..).next().map(|(_, running)| running.due_us);
            match first.map(|due_us| due_us - boottime_us()) {
                None => drop(starts.changed().await),
                Some(wait_us) if wait_us > 0 => tokio::time::sleep(Duration::from_micros(wait_us as u64)).await,
                Some(_) => return self.lock().news(told, boottime_us()),
            }
        }
    }

    /// Puts back what was not acknowledged.
    fn put_back(&self, ended: Vec<Arc<Ended>>) {
        let mut state = self.lock();
        for ended in ended.into_iter().rev() {
            state.ended.push_front(ended);
        }
    }
}

impl State {
    fn take(&mut self) -> Vec<Arc<Ended>> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(ended) = self.ended.front() {
            bytes += ended.inline_bytes();
            if batch.len() == REPORT_BATCH_RUNS_MAX || (bytes > REPORT_BATCH_BYTES_MAX && !batch.is_empty()) {
                break;
            }
            batch.extend(self.ended.pop_front());
        }
        batch
    }

    fn news(&self, told: u64, now_us: i64) -> (u64, Vec<RunReport>) {
        let due = self.running.range(told + 1..).take_while(|(_, running)| running.due_us <= now_us).take(REPORT_BATCH_RUNS_MAX);
        let mut up_to = told;
        let started = due.map(|(number, running)| {
            up_to = *number;
            RunReport { run: running.run, epoch: running.epoch, event: RunEvent::Started { at: running.at } }
        });
        let started = started.collect();
        (up_to, started)
    }
}

fn reports(ended: &[Arc<Ended>]) -> Vec<RunReport> {
    let report = |ended: &Arc<Ended>| RunReport {
        run: ended.run,
        epoch: ended.epoch,
        event: RunEvent::Ended { outcome: ended.outcome.clone(), output: ended.output.clone() },
    };
    ended.iter().map(report).collect()
}

/// Tells one controller, whether it leads or not, what runs: everything at the beginning of each connection and session, then what is new.
pub async fn tell_starts(shared: Arc<Shared>, outbox: Arc<Outbox>, index: usize) {
    let link = shared.links.get(index);
    let mut backoff = Backoff::default();
    loop {
        let session = shared.session_open().await;
        link.is_connected().await;
        let mut told = 0;
        while shared.status.borrow().session == Some(session) {
            let (up_to, runs) = tokio::select! {
                news = outbox.news(told) => news,
                () = link.is_lost() => break,
            };
            let Some(cluster) = shared.cluster() else { break };
            let report = Report { cluster, worker: shared.worker.clone(), session, runs };
            match link.call(REPORT_DEADLINE, |client, context| async move { client.report(context, report).await }).await {
                Ok(_) => {
                    told = up_to;
                    backoff.reset();
                }
                Err(missed) => {
                    log::debug!("{} was not told what runs: {missed}", link.address);
                    backoff.wait().await;
                    if !matches!(missed, Missed::Refused(_)) {
                        break;
                    }
                }
            }
        }
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
                failpoint!("worker-after-report");
                let answer = |place: usize| ack.closed_at.get(place).copied().flatten();
                let (done, missing): (Vec<_>, Vec<_>) = batch.into_iter().enumerate().partition(|(place, _)| answer(*place).is_some());
                let acknowledged = done.into_iter().filter_map(|(place, ended)| Some((ended.run, answer(place)?))).collect();
                let missing: Vec<_> = missing.into_iter().map(|(_, ended)| ended).collect();
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
                outbox.put_back(batch);
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

async fn send(links: &Links, shared: &Shared, session: SessionId, ended: &[Arc<Ended>]) -> Result<ReportAck, Missed> {
    let Some(cluster) = shared.cluster() else { return Err(Missed::NotConnected) };
    let report = Report { cluster, worker: shared.worker.clone(), session, runs: reports(ended) };
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
        assert_eq!(outbox.lock().news(0, boottime_us() - STARTED_WAIT_US), (0, Vec::new()));
        outbox.ended(ended(1, 0));
        let (up_to, news) = outbox.lock().news(0, boottime_us() + STARTED_WAIT_US);
        assert_eq!((up_to, news.len(), news[0].run), (2, 1, run(2)));
        assert_eq!(outbox.lock().news(up_to, boottime_us() + STARTED_WAIT_US), (2, Vec::new()));
        assert_eq!(outbox.lock().news(0, boottime_us() + STARTED_WAIT_US).1.len(), 1, "who was away is told again");
        assert_eq!(outbox.lock().take()[0].run, run(1));
    }

    #[test]
    fn a_report_is_bounded_in_runs_and_bytes_and_what_is_put_back_comes_first() {
        let outbox = Outbox::default();
        for n in 0..2500 {
            outbox.ended(ended(n, 10));
        }
        let batch = outbox.lock().take();
        assert_eq!(reports(&batch).len(), REPORT_BATCH_RUNS_MAX);
        outbox.put_back(batch);
        assert_eq!(outbox.lock().take()[0].run, run(0));
        let outbox = Outbox::default();
        for n in 0..1000 {
            outbox.ended(ended(n, 16 * 1024));
        }
        assert_eq!(outbox.lock().take().len(), 256);
    }
}
