//! What a worker's agent says to controllers, as `agent::session` and `agent::reports` do: sessions, heartbeats, reports. All times are the
//! machine's BOOTTIME.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chrono_flow::agent::runs::{Claims, Ended, Now, Runs};
use chrono_flow::model::{Epoch, NodeId, RunId, SessionId, UnixMs, WorkerId};
use chrono_flow::rpc::wire::{
    CloseSession, Grant, Heartbeat, OpenSession, PROTOCOL_VERSION, Refusal, Report, ReportAck, RunEvent, RunReport, SessionOpened,
};
use uuid::Uuid;

use crate::network::{Ask, Message, Place, Told};
use crate::random::Random;

const HEARTBEAT_MS: u64 = 1_000;
const HEARTBEAT_DEADLINE_MS: u64 = 2_000;
const OPEN_DEADLINE_MS: u64 = HEARTBEAT_DEADLINE_MS;
const CLOSE_DEADLINE_MS: u64 = 2_000;
const REPORT_DEADLINE_MS: u64 = 10_000;
const BACKOFF_MS_MIN: u64 = 20;
const BACKOFF_MS_MAX: u64 = 500;

pub struct Me<'a> {
    pub name: &'a WorkerId,
    pub data_dir: Uuid,
    pub index: usize,
    pub labels: &'a BTreeMap<String, String>,
    pub slots: u32,
    pub wall: UnixMs,
}

pub struct Calls {
    next_call: u64,
    controllers: Vec<NodeId>,
    /// The one that is thought to lead, by its place.
    leader: usize,
    open: Turn<i64>,
    /// What the next session is told; taken when it is asked for.
    claims: Option<Claims>,
    /// A session that a leader has spoken of.
    newest: Option<SessionId>,
    claimed: Vec<(RunId, Epoch)>,
    beats: Vec<Turn<(SessionId, i64)>>,
    report: Turn<(SessionId, Vec<Arc<Ended>>)>,
    ended: VecDeque<Arc<Ended>>,
    /// The session is given up, and no other one is wanted: no heartbeat any more.
    left: Option<SessionId>,
    close: Turn<()>,
    is_session_closed: bool,
}

/// One kind of call: at most one is on its way.
struct Turn<T> {
    due_ms: u64,
    backoff_ms: u64,
    /// Its number, its deadline, and what belongs to it.
    call: Option<(u64, u64, T)>,
}

impl<T> Turn<T> {
    fn new(due_ms: u64) -> Turn<T> {
        Turn { due_ms, backoff_ms: BACKOFF_MS_MIN, call: None }
    }

    fn back_off(&mut self, now_ms: u64) {
        self.due_ms = now_ms + self.backoff_ms;
        self.backoff_ms = (self.backoff_ms * 2).min(BACKOFF_MS_MAX);
    }

    fn is_due(&self, now_ms: u64) -> bool {
        self.call.is_none() && now_ms >= self.due_ms
    }

    fn next_due_ms(&self) -> u64 {
        self.call.as_ref().map_or(self.due_ms, |(_, deadline_ms, _)| *deadline_ms)
    }

    fn is_late(&self, now_ms: u64) -> bool {
        self.call.as_ref().is_some_and(|(_, deadline_ms, _)| now_ms >= *deadline_ms)
    }

    fn answered(&mut self, call: u64) -> Option<T> {
        self.call.take_if(|(of, _, _)| *of == call).map(|(_, _, with)| with)
    }
}

impl Calls {
    pub fn new(number: u64, controllers: &[NodeId], now_ms: u64) -> Calls {
        Calls {
            next_call: number << 32,
            controllers: controllers.to_vec(),
            leader: 0,
            open: Turn::new(now_ms),
            claims: None,
            newest: None,
            claimed: Vec::new(),
            beats: controllers.iter().map(|_| Turn::new(now_ms)).collect(),
            report: Turn::new(now_ms),
            ended: VecDeque::new(),
            left: None,
            close: Turn::new(now_ms),
            is_session_closed: false,
        }
    }

    /// That this worker drains is said now, and not a second later.
    pub fn beat_at_once(&mut self, now: Now) {
        self.beats.iter_mut().for_each(|beat| beat.due_ms = now.boot_us as u64 / 1_000);
    }

    /// The session is to be closed.
    pub fn leave(&mut self, now: Now, session: SessionId) {
        (self.left, self.close) = (Some(session), Turn::new(now.boot_us as u64 / 1_000));
    }

    pub fn is_session_closed(&self) -> bool {
        self.is_session_closed
    }

    pub fn ended(&mut self, ended: Arc<Ended>) {
        self.ended.push_back(ended);
    }

    pub fn take_claims(&mut self) -> Vec<(RunId, Epoch)> {
        std::mem::take(&mut self.claimed)
    }

    pub fn next_due_ms(&self, runs: &Runs) -> Option<u64> {
        if self.left.is_some() {
            return (!self.is_session_closed).then(|| self.close.next_due_ms());
        }
        if runs.session().is_none() {
            let report = self.report.call.as_ref().map(|(_, deadline_ms, _)| *deadline_ms);
            return report.into_iter().chain([self.open.next_due_ms()]).min();
        }
        let report = (self.report.call.is_some() || !self.ended.is_empty()).then(|| self.report.next_due_ms());
        self.beats.iter().map(Turn::next_due_ms).chain(report).min()
    }

    /// Gives up what took too long; a session that is to be opened is told what is so now, once that is in the journal.
    pub fn prepare(&mut self, now: Now, runs: &mut Runs) {
        let now_ms = now.boot_us as u64 / 1_000;
        if self.open.is_late(now_ms) {
            self.open.call = None;
            self.try_another();
            self.open.back_off(now_ms);
        }
        for beat in self.beats.iter_mut().filter(|beat| beat.is_late(now_ms)) {
            beat.call = None;
        }
        if self.report.is_late(now_ms) {
            self.put_back(now_ms);
        }
        if self.close.is_late(now_ms) {
            self.close.call = None;
            self.try_another();
            self.close.back_off(now_ms);
        }
        if runs.session().is_none() && self.left.is_none() && self.open.is_due(now_ms) {
            runs.lapse(now);
            self.claims = Some(runs.claims(self.newest));
        }
    }

    fn put_back(&mut self, now_ms: u64) {
        if let Some((_, _, (_, batch))) = self.report.call.take() {
            batch.into_iter().rev().for_each(|ended| self.ended.push_front(ended));
        }
        self.report.back_off(now_ms);
    }

    fn try_another(&mut self) {
        self.leader = (self.leader + 1) % self.controllers.len();
    }

    /// A controller says who leads: one of which this worker was not told, perhaps.
    fn refer(&mut self, refusal: &Refusal) {
        if let Refusal::NotLeader { leader: Some(leader), address: Some(_) } = refusal
            && !self.controllers.contains(leader)
        {
            self.controllers.push(*leader);
            self.beats.push(Turn::new(0));
        }
    }

    fn call(&mut self) -> u64 {
        self.next_call += 1;
        self.next_call
    }

    /// What is to be said now.
    pub fn ask(&mut self, boot_us: i64, runs: &Runs, me: &Me, random: &mut Random) -> Vec<(Place, Message)> {
        let now_ms = boot_us as u64 / 1_000;
        let mut asked = Vec::new();
        if let Some(claims) = self.claims.take().filter(|_| runs.session().is_none()) {
            self.claimed.extend(claims.not_started.iter().map(|of| (of.run, of.epoch)));
            let call = self.call();
            self.open.call = Some((call, now_ms + OPEN_DEADLINE_MS, boot_us));
            let request = OpenSession {
                cluster: claims.cluster,
                protocol_version: PROTOCOL_VERSION,
                worker: me.name.clone(),
                data_dir: me.data_dir,
                address: me.index.to_string(),
                labels: me.labels.clone(),
                slots: me.slots,
                now: me.wall,
                previous: claims.previous,
                not_started: claims.not_started,
                adopted: claims.adopted,
                to_report: claims.to_report,
                journal_is_whole: claims.journal_is_whole,
            };
            asked.push((Place::Controller(self.controllers[self.leader]), Message::Ask { call, ask: Ask::Open(request) }));
        }
        if let Some(cluster) = runs.cluster()
            && let Some(session) = self.left
        {
            if !self.is_session_closed && self.close.is_due(now_ms) {
                let call = self.call();
                self.close.call = Some((call, now_ms + CLOSE_DEADLINE_MS, ()));
                let request = CloseSession { cluster, worker: me.name.clone(), session };
                asked.push((Place::Controller(self.controllers[self.leader]), Message::Ask { call, ask: Ask::Close(request) }));
            }
            return asked;
        }
        let (Some(session), Some(cluster)) = (runs.session(), runs.cluster()) else { return asked };
        let counts = runs.counts();
        for place in 0..self.beats.len() {
            if !self.beats[place].is_due(now_ms) {
                continue;
            }
            let call = self.call();
            self.beats[place].due_ms = now_ms + HEARTBEAT_MS;
            self.beats[place].call = Some((call, now_ms + HEARTBEAT_DEADLINE_MS, (session, boot_us)));
            let heartbeat = Heartbeat {
                cluster,
                worker: me.name.clone(),
                session,
                now: me.wall,
                slots: me.slots,
                running: counts.running,
                waiting: counts.waiting,
                is_draining: runs.is_draining(),
                trouble: runs.trouble().as_deref().map(str::to_owned),
            };
            asked.push((Place::Controller(self.controllers[place]), Message::Ask { call, ask: Ask::Beat(heartbeat) }));
        }
        if !self.ended.is_empty() && self.report.is_due(now_ms) {
            let call = self.call();
            let count = self.ended.len().min(1 + random.below(50) as usize);
            let batch: Vec<Arc<Ended>> = self.ended.drain(..count).collect();
            let report = |ended: &Arc<Ended>| RunReport {
                run: ended.run,
                epoch: ended.epoch,
                event: RunEvent::Ended { outcome: ended.outcome.clone(), output: ended.output.clone() },
            };
            let report = Report { cluster, worker: me.name.clone(), session, runs: batch.iter().map(report).collect() };
            self.report.call = Some((call, now_ms + REPORT_DEADLINE_MS, (session, batch)));
            asked.push((Place::Controller(self.controllers[self.leader]), Message::Ask { call, ask: Ask::Report(report) }));
        }
        asked
    }

    /// An answer has come. Says the term that this worker has seen by it.
    pub fn told(&mut self, now: Now, call: u64, told: Told, runs: &mut Runs) -> Option<u64> {
        match told {
            Told::Nothing => {
                self.nothing(now, call);
                None
            }
            Told::Opened(answer) => self.opened(now, call, answer, runs),
            Told::Granted(answer) => self.granted(now, call, answer, runs),
            Told::Closed(answer) => {
                self.closed(now, call, answer);
                None
            }
            Told::Reported(answer) => {
                self.reported(now, call, answer, runs);
                None
            }
        }
    }

    fn nothing(&mut self, now: Now, call: u64) {
        let now_ms = now.boot_us as u64 / 1_000;
        if self.open.answered(call).is_some() {
            self.try_another();
            self.open.back_off(now_ms);
        }
        for beat in &mut self.beats {
            beat.answered(call);
        }
        if self.report.call.as_ref().is_some_and(|(of, _, _)| *of == call) {
            self.put_back(now_ms);
            self.try_another();
        }
        if self.close.answered(call).is_some() {
            self.try_another();
            self.close.back_off(now_ms);
        }
    }

    fn closed(&mut self, now: Now, call: u64, answer: Result<(), Refusal>) {
        if self.close.answered(call).is_none() {
            return;
        }
        match answer {
            Ok(()) => self.is_session_closed = true,
            Err(refusal) => {
                self.refer(&refusal);
                self.try_another();
                self.close.back_off(now.boot_us as u64 / 1_000);
            }
        }
    }

    fn opened(&mut self, now: Now, call: u64, answer: Result<SessionOpened, Refusal>, runs: &mut Runs) -> Option<u64> {
        let sent_us = self.open.answered(call)?;
        let SessionOpened { cluster, session, term, grant } = match answer {
            Ok(opened) => opened,
            Err(Refusal::NewerSession { newest }) if self.newest < Some(newest) => {
                self.newest = Some(newest);
                return None; // and asks again at once
            }
            Err(refusal) => {
                self.refer(&refusal);
                self.try_another();
                self.open.back_off(now.boot_us as u64 / 1_000);
                return None;
            }
        };
        self.open = Turn::new(0);
        runs.opened(cluster, session, term);
        grant_to(runs, now, session, sent_us, &grant);
        Some(term)
    }

    fn granted(&mut self, now: Now, call: u64, answer: Result<Grant, Refusal>, runs: &mut Runs) -> Option<u64> {
        let place = self.beats.iter().position(|beat| beat.call.as_ref().is_some_and(|(of, _, _)| *of == call))?;
        let (session, sent_us) = self.beats[place].answered(call)?;
        match answer {
            Ok(grant) => {
                self.leader = place;
                grant_to(runs, now, session, sent_us, &grant);
                None
            }
            Err(Refusal::OtherSession { .. }) => {
                over(runs, now, session);
                None
            }
            Err(refusal) => {
                self.refer(&refusal);
                None
            }
        }
    }

    fn reported(&mut self, now: Now, call: u64, answer: Result<ReportAck, Refusal>, runs: &mut Runs) {
        let Some((session, batch)) = self.report.answered(call) else { return };
        let now_ms = now.boot_us as u64 / 1_000;
        match answer {
            Ok(ack) => {
                let mut is_whole = true;
                for (place, ended) in batch.into_iter().enumerate().rev() {
                    match ack.closed_at.get(place).copied().flatten() {
                        Some(index) => runs.acknowledged(now, ended.run, index),
                        None => {
                            is_whole = false;
                            self.ended.push_front(ended);
                        }
                    }
                }
                if is_whole {
                    self.report = Turn::new(0);
                } else {
                    self.report.back_off(now_ms);
                }
            }
            Err(refusal) => {
                batch.into_iter().rev().for_each(|ended| self.ended.push_front(ended));
                self.report.back_off(now_ms);
                match refusal {
                    Refusal::OtherSession { .. } => over(runs, now, session),
                    Refusal::NotLeader { .. } => self.try_another(),
                    _ => {}
                }
            }
        }
    }
}

fn over(runs: &mut Runs, now: Now, session: SessionId) {
    if runs.session() == Some(session) {
        runs.lapse(now);
    }
}

/// Counted from when it was asked for (PROTOCOL C3).
fn grant_to(runs: &mut Runs, now: Now, session: SessionId, sent_us: i64, grant: &Grant) {
    let end = |ms: u64| sent_us + ms as i64 * 1_000;
    runs.granted(now, session, grant.term, end(grant.permit_ms), end(grant.lease_ms), grant.recorded_up_to);
}
