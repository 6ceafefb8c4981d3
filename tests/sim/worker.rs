//! A worker: the real table of runs, and the real recovery from its journal; the rest of an agent is played here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use anyhow::Result;
use chrono_flow::agent::guardian::Leftover;
use chrono_flow::agent::recover::{Past, Remains, recover};
use chrono_flow::agent::runs::{Action, Captured, Ended, Limits, Now, OutputPlace, Record, Runs, SpawnFailure, Token};
use chrono_flow::engine::driver::{Answer, Call};
use chrono_flow::model::{Epoch, NodeId, OutputPart, RunId, SessionId, Stream, WorkerId};
use chrono_flow::rpc::wire;
use uuid::Uuid;

use crate::clocks::NodeClock;
use crate::controller::CLUSTER;
use crate::guardian::{Guardian, Notice, Order, Process, Started, habit};
use crate::leaving::Leaving;
use crate::network::{Ask, Message, Packet, PeerAsk, PeerTold, Place};
use crate::random::Random;
use crate::worker_calls::Calls;

/// The journal is rewritten when it is longer.
const JOURNAL_RECORDS_MAX: usize = 500;
/// More output than travels in a report.
const SPOOLED_BYTES: u64 = 20_000;

/// What the checks have to know of a worker.
pub enum Event {
    Started(Started),
    /// It says that this did not start, and never will.
    NotStarted(RunId, Epoch),
    /// It has obeyed an order, or taken a grant, of this term.
    Obeyed(u64),
    /// It has let go of a run's output.
    Forgot(Arc<Ended>),
}

pub struct Worker {
    pub index: usize,
    pub name: WorkerId,
    pub data_dir: Uuid,
    pub slots: u32,
    pub labels: BTreeMap<String, String>,
    pub clock: NodeClock,
    /// How fast its BOOTTIME goes.
    pub boot_ppm: i64,
    pub journal: Vec<Record>,
    is_of_other_boot: bool,
    pub agent: Option<Agent>,
    pub guardian: Guardian,
    /// What a dead guardian has left, by the process id and the start time that were told of it.
    pub leftovers: BTreeMap<(u32, u64), Process>,
    pub agent_paused_until_ms: u64,
    /// With it, the guardian.
    pub machine_paused_until_ms: u64,
    pub restarts_at_ms: Option<u64>,
    /// With so much time for its runs.
    pub asked_to_stop_ms: Option<u64>,
    /// The process dies behind so many more records.
    pub dies_after_records: Option<u64>,
    pub arrivals: VecDeque<Packet>,
    pub random: Random,
    pub controllers: Vec<NodeId>,
    pub events: Vec<Event>,
    /// When an attempt of a job that ends with its lease may overlap with the next: the guardian itself was stopped.
    pub was_machine_paused: bool,
    pub is_spool_full: bool,
    /// It is stopped for so long as soon as it has sent a heartbeat.
    pub sleeps_at_next_beat_ms: Option<u64>,
    pub has_fallen_asleep: bool,
}

/// One life of the process.
pub struct Agent {
    /// No two lives have the same. Processes have it as their id.
    number: u64,
    pub runs: Runs,
    pub calls: Calls,
    /// Connections in the order in which they came.
    connections: BTreeMap<u64, u64>,
    /// Answers that wait for the journal.
    answers: Vec<(Place, Message)>,
    outputs: BTreeMap<Token, u64>,
    pub leaving: Option<Leaving>,
}

impl Worker {
    pub fn new(index: usize, data_dir: u128, name: &str, seed: u64, controllers: Vec<NodeId>) -> Worker {
        let mut random = Random(seed);
        Worker {
            index,
            name: WorkerId(name.to_owned()),
            data_dir: Uuid::from_u128(data_dir),
            slots: random.pick(&[48, 64, 200]),
            labels: [("name".to_owned(), name.to_owned())].into(),
            clock: NodeClock::new(random.below(100) as i64 - 50),
            boot_ppm: random.below(6_000) as i64 - 3_000,
            journal: Vec::new(),
            is_of_other_boot: false,
            agent: None,
            guardian: Guardian::default(),
            leftovers: BTreeMap::new(),
            agent_paused_until_ms: 0,
            machine_paused_until_ms: 0,
            restarts_at_ms: Some(0),
            asked_to_stop_ms: None,
            dies_after_records: None,
            arrivals: VecDeque::new(),
            random,
            controllers,
            events: Vec::new(),
            was_machine_paused: false,
            is_spool_full: false,
            sleeps_at_next_beat_ms: None,
            has_fallen_asleep: false,
        }
    }

    pub fn boot_us(&self, now_ms: u64) -> i64 {
        (i128::from(now_ms) * 1_000 * i128::from(1_000_000 + self.boot_ppm) / 1_000_000) as i64
    }

    /// When this machine's BOOTTIME will be there.
    fn when_ms(&self, boot_us: i64) -> u64 {
        let ms = i128::from(boot_us) * 1_000_000 / i128::from(1_000_000 + self.boot_ppm) / 1_000;
        (ms + 1).clamp(0, i128::from(u64::MAX)) as u64
    }

    fn now(&self, now_ms: u64) -> Now {
        Now { boot_us: self.boot_us(now_ms), wall_us: self.clock.wall(now_ms).0 * 1_000 }
    }

    // ---- lives

    pub fn start(&mut self, now_ms: u64, number: u64) {
        let now = self.now(now_ms);
        let past = Past::of(self.journal.clone());
        let mut before = std::mem::take(&mut self.journal);
        self.journal.extend(past.session_record());
        let mut runs = Runs::new(Limits { slots: self.slots, held_max: 5_000 }, past.cluster, past.session);
        let mut remains = Leftovers(&mut self.leftovers);
        recover(past, self.is_of_other_boot, &mut runs, &mut remains, now).expect("nothing fails");
        let is_known = |record: &Record| match record {
            Record::Started { pid, start_time_ticks, .. } => self.leftovers.contains_key(&(*pid, *start_time_ticks)),
            _ => false,
        };
        assert!(!before.iter().any(is_known), "a new life of worker {} leaves something alive that its journal knows of", self.name);
        let calls = Calls::new(number, &self.controllers, now.boot_us as u64 / 1_000);
        let (connections, outputs) = (BTreeMap::new(), BTreeMap::new());
        self.agent = Some(Agent { number, runs, calls, connections, answers: Vec::new(), outputs, leaving: None });
        self.act(now_ms);
        if self.agent.is_some() {
            // What matters of earlier files is written again.
            self.is_of_other_boot = false;
        } else {
            before.append(&mut self.journal);
            self.journal = before;
        }
    }

    /// kill -9; the guardian ends what was started.
    pub fn die(&mut self) {
        if let Some(agent) = self.agent.take().filter(|_| self.guardian.is_dead) {
            let left = std::mem::take(&mut self.guardian.processes).into_iter();
            self.leftovers.extend(left.map(|(token, process)| ((agent.number as u32, token), process)));
        }
        self.guardian.end_everything();
        self.arrivals.clear();
        self.dies_after_records = None;
        self.asked_to_stop_ms = None;
    }

    /// The guardian is killed, and its agent with it, or else as soon as it notices.
    pub fn kill_guardian(&mut self, with_agent: bool) {
        self.guardian.die();
        if with_agent {
            self.die();
        }
    }

    /// The agent notices that its guardian is dead: it ends what it knows to be started, and itself.
    fn guardian_lost(&mut self) {
        let Some(agent) = &self.agent else { return };
        for (_, token) in agent.runs.processes() {
            self.guardian.processes.remove(&token);
        }
        self.die();
    }

    /// The data directory is lost, and with it all that this worker could prove.
    pub fn wipe(&mut self) {
        self.die();
        self.journal.clear();
        self.data_dir = Uuid::from_u64_pair(self.random.next(), self.random.next());
    }

    /// The machine goes down: what the page cache held may be lost.
    pub fn power_off(&mut self) {
        self.die();
        self.leftovers.clear();
        let lost = self.random.below(20) as usize;
        self.journal.truncate(self.journal.len().saturating_sub(lost));
        self.is_of_other_boot = true;
    }

    // ---- time

    pub fn next_due_ms(&self, now_ms: u64) -> Option<u64> {
        let guardian = self.guardian.next_due_ms().map(|boot_ms| self.when_ms(boot_ms * 1_000).max(self.machine_paused_until_ms));
        let paused_until_ms = self.agent_paused_until_ms.max(self.machine_paused_until_ms);
        let agent = self.agent.as_ref().map(|agent| {
            let runs = agent.runs.next_deadline_us(self.now(now_ms)).map(|boot_us| self.when_ms(boot_us));
            let notices = self.guardian.notices.front().map(|(boot_ms, _)| self.when_ms(boot_ms * 1_000));
            let calls = agent.calls.next_due_ms(&agent.runs).map(|boot_ms| self.when_ms(boot_ms as i64 * 1_000));
            let leaving = agent.leaving.map(|leaving| self.when_ms(leaving.until_us()));
            let due = [runs, notices, calls, leaving];
            due.into_iter().flatten().min().map_or(u64::MAX, |due_ms| due_ms.max(paused_until_ms))
        });
        [guardian, agent].into_iter().flatten().min()
    }

    pub fn pump(&mut self, now_ms: u64) -> Vec<(Place, Message)> {
        if now_ms < self.machine_paused_until_ms {
            return Vec::new();
        }
        let boot_ms = self.boot_us(now_ms) / 1_000;
        let started = self.guardian.run(boot_ms, &mut self.random);
        self.leftovers.retain(|_, process| !process.has_ended(boot_ms));
        self.events.extend(started.into_iter().map(Event::Started));
        if now_ms < self.agent_paused_until_ms || self.agent.is_none() {
            return Vec::new();
        }
        let now = self.now(now_ms);
        while let Some((_, notice)) = self.guardian.notices.pop_front_if(|(due_ms, _)| *due_ms <= boot_ms) {
            self.notice(now, notice);
        }
        if self.guardian.is_dead {
            self.guardian_lost();
        }
        while let Some(packet) = self.arrivals.pop_front() {
            self.receive(now, packet);
        }
        if let Some(agent) = &mut self.agent {
            agent.runs.tick(now);
        }
        self.go_on_leaving(now);
        if let Some(agent) = &mut self.agent {
            agent.calls.prepare(now, &mut agent.runs);
        }
        self.act(now_ms);
        let mut outgoing = Vec::new();
        if let Some(agent) = &mut self.agent {
            let me = crate::worker_calls::Me {
                name: &self.name,
                data_dir: self.data_dir,
                index: self.index,
                labels: &self.labels,
                slots: self.slots,
                wall: self.clock.wall(now_ms),
            };
            outgoing.append(&mut agent.answers);
            outgoing.extend(agent.calls.ask(now.boot_us, &agent.runs, &me, &mut self.random));
            let not_started = agent.calls.take_claims();
            self.events.extend(not_started.into_iter().map(|(run, epoch)| Event::NotStarted(run, epoch)));
        }
        let is_beat = |(_, message): &(Place, Message)| matches!(message, Message::Ask { ask: Ask::Beat(_), .. });
        if outgoing.iter().any(is_beat)
            && let Some(ms) = self.sleeps_at_next_beat_ms.take()
        {
            self.agent_paused_until_ms = now_ms + ms;
            self.has_fallen_asleep = true;
        }
        outgoing
    }

    fn notice(&mut self, now: Now, notice: Notice) {
        let Some(agent) = &mut self.agent else { return };
        match notice {
            Notice::Spawned { token } => agent.runs.spawned(now, token, agent.number as u32, token, now.wall()),
            Notice::TooLate { token } => agent.runs.spawn_failed(now, token, SpawnFailure::TooLate),
            Notice::Exited { token, exit } => {
                agent.runs.exited(now, token, exit, now.wall());
                agent.runs.captured(token, captured(agent.outputs.remove(&token).unwrap_or(0)));
            }
            Notice::GroupGone { token } => agent.runs.group_gone(now, token),
        }
    }

    fn receive(&mut self, now: Now, packet: Packet) {
        let Packet { from, message, .. } = packet;
        let Some(agent) = &mut self.agent else { return };
        match message {
            Message::Order { call, connection, term, session, order } => {
                let answer = self.obey(now, connection, term, session, order);
                if let Some(agent) = &mut self.agent {
                    agent.answers.push((from, Message::Done { call, session, answer }));
                }
            }
            Message::Told { call, told } => {
                let term = agent.calls.told(now, call, told, &mut agent.runs);
                self.events.extend(term.map(Event::Obeyed));
            }
            Message::PeerAsk { call, ask: PeerAsk::Read(request) } => {
                let page = match agent.runs.output_place(request.run) {
                    OutputPlace::Ended(_) => {
                        let parts = vec![OutputPart { offset: 0, stream: Stream::Stdout, bytes: vec![b'x'; 8] }];
                        Ok(wire::OutputPage { parts, next: SPOOLED_BYTES, is_complete: true })
                    }
                    _ => Err(wire::Refusal::UnknownRun(request.run)),
                };
                agent.answers.push((from, Message::PeerTold { call, told: PeerTold::Page(page) }));
            }
            _ => {}
        }
    }

    fn obey(&mut self, now: Now, connection: u64, term: u64, session: SessionId, call: Call) -> Answer {
        let Some(agent) = &mut self.agent else { return Answer::Failed };
        let next = agent.connections.len() as u64 + 1;
        let connection = *agent.connections.entry(connection).or_insert(next);
        let order = wire::Order { cluster: CLUSTER, term, session, body: () };
        if agent.runs.check(&order, connection).is_err() {
            return Answer::Failed;
        }
        self.events.push(Event::Obeyed(term));
        match call {
            Call::Stage(stages) => {
                let acks = agent.runs.stage(now, stages);
                // What is declined leaves no trace here: until the ledger has it, it may be staged again, and taken then.
                let refused = acks.iter().filter(|ack| ack.result == wire::StageResult::Revoked);
                self.events.extend(refused.map(|ack| Event::NotStarted(ack.run, ack.epoch)));
                Answer::Staged(acks)
            }
            Call::Revoke(runs) => {
                let acks = agent.runs.revoke(now, &runs);
                let proofs = acks.iter().filter(|ack| ack.not_started);
                self.events.extend(proofs.map(|ack| Event::NotStarted(ack.run, ack.epoch)));
                Answer::Revoked(acks)
            }
            Call::Cancel(cancels) => {
                agent.runs.cancel(now, &cancels);
                Answer::Cancelled
            }
        }
    }

    // ---- what the table asks for

    fn act(&mut self, now_ms: u64) {
        loop {
            let Some(agent) = &mut self.agent else { return };
            agent.runs.set_trouble(self.is_spool_full.then(|| Arc::from("the spool is full")));
            let actions = agent.runs.take_actions();
            for action in &actions {
                let Action::Journal(record) = action else { continue };
                if self.dies_after_records == Some(0) {
                    return self.die();
                }
                self.dies_after_records = self.dies_after_records.map(|left| left - 1);
                self.journal.push(record.clone());
            }
            if actions.is_empty() {
                return self.rotate_journal();
            }
            for action in actions {
                self.perform(now_ms, action);
            }
        }
    }

    /// What still matters of each run is written again.
    fn rotate_journal(&mut self) {
        let Some(agent) = self.agent.as_ref().filter(|_| self.journal.len() > JOURNAL_RECORDS_MAX) else { return };
        let named = |record: &Record| match record {
            Record::Accepted { run, .. } | Record::Revoked { run, .. } => Some(*run),
            Record::Ended(ended) => Some(ended.run),
            _ => None,
        };
        let runs: BTreeSet<RunId> = self.journal.iter().filter_map(named).collect();
        self.journal = agent.runs.head_records();
        self.journal.extend(runs.into_iter().flat_map(|run| agent.runs.records_of(run)));
    }

    fn perform(&mut self, now_ms: u64, action: Action) {
        let boot_ms = self.boot_us(now_ms) / 1_000;
        let Some(agent) = &mut self.agent else { return };
        match action {
            Action::Journal(_) | Action::SessionOver | Action::ReportStarted { .. } => {}
            Action::Spawn { token, launch, not_after_us, .. } => {
                let epoch = agent.runs.records_of(launch.run).iter().find_map(|record| match record {
                    Record::Accepted { epoch, .. } => Some(*epoch),
                    _ => None,
                });
                agent.outputs.insert(token, habit(&launch.task.command)[2]);
                let epoch = epoch.expect("what starts was accepted");
                let order = Order::Spawn { token, launch, epoch, not_after_ms: not_after_us / 1_000 };
                self.guardian.order(boot_ms, &mut self.random, order);
            }
            Action::Stop { token, grace_ms, .. } => self.guardian.order(boot_ms, &mut self.random, Order::Stop { token, grace_ms }),
            Action::DiscardOutput { token } => drop(agent.outputs.remove(&token)),
            Action::CloseOutput { token } => agent.runs.captured(token, captured(agent.outputs.remove(&token).unwrap_or(0))),
            Action::ReportEnded(ended) | Action::ReportAgain(ended) => agent.calls.ended(ended),
            Action::Forget(ended) => self.events.push(Event::Forgot(ended)),
            Action::SetLease { permit_end_us, lease_end_us } => {
                let order = Order::SetLease { permit_end_ms: permit_end_us / 1_000, lease_end_ms: lease_end_us / 1_000 };
                self.guardian.order(boot_ms, &mut self.random, order);
            }
        }
    }
}

fn captured(bytes: u64) -> Captured {
    match bytes {
        0 => Captured { inline: Some(Vec::new()), ..Captured::default() },
        bytes if bytes < SPOOLED_BYTES => {
            let parts = vec![OutputPart { offset: 0, stream: Stream::Stdout, bytes: vec![b'x'; 8] }];
            Captured { bytes, inline: Some(parts), ..Captured::default() }
        }
        bytes => Captured { bytes, inline: None, spooled_bytes: bytes, ..Captured::default() },
    }
}

/// Of processes what a dead guardian has left; of output nothing.
struct Leftovers<'a>(&'a mut BTreeMap<(u32, u64), Process>);

impl Remains for Leftovers<'_> {
    fn kill(&mut self, pid: u32, start_time_ticks: u64) -> Leftover {
        self.0.remove(&(pid, start_time_ticks)).map_or(Leftover::Gone, |_| Leftover::Killed)
    }
    fn output(&mut self, _: RunId) -> Captured {
        Captured { inline: Some(Vec::new()), is_truncated: true, ..Captured::default() }
    }
    fn hold(&mut self, _: &Ended) {}
    fn remove_orphans(&mut self, _: &BTreeSet<RunId>) -> Result<usize> {
        Ok(0)
    }
}
