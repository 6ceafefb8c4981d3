//! A ledger that sees each entry once, in order, and what must hold of it; and what must hold of every start, wherever it happens.

use std::collections::{BTreeMap, BTreeSet};

use chrono_flow::ledger::{Command, Effect, Ledger, OpenRun, Reply, decode_entry};
use chrono_flow::model::{Epoch, Job, JobId, NodeId, Overlap, Reason, Run, RunId, RunState, SessionId, Trigger, UnixMs, WorkerId};
use uuid::Uuid;

use crate::clocks::DAY;
use crate::controller::Seen;
use crate::guardian::Started;
use crate::history::History;

/// Ledgers of so many entries are kept to compare with.
const PAST_KEPT: usize = 2_000;
/// Nothing starts earlier than so much before its instant, by the true time: three clocks may each be off by the limit.
const EARLY_MS_MAX: i64 = 1_600;

#[derive(Default)]
pub struct Witness {
    pub ledger: Ledger,
    entries: BTreeMap<u64, (u64, u32)>,
    past: BTreeMap<u64, Ledger>,
    pub history: History,
    /// Under which epoch each run has started.
    started: BTreeMap<RunId, Epoch>,
    /// What is proved not to start any more, anywhere.
    refused: BTreeSet<(RunId, Epoch)>,
    /// PROTOCOL B10, where it is set low.
    pub unrecorded_max: Option<u64>,
    pub starts: u64,
    /// Sessions that their workers have closed.
    closed: BTreeSet<SessionId>,
    /// Sessions that have been opened, and not been looked at.
    pub opened: Vec<(WorkerId, Uuid)>,
    /// When each job's last start was, by the boot time.
    pub last_starts: BTreeMap<JobId, u64>,
}

impl Witness {
    pub fn new(unrecorded_max: Option<u64>) -> Witness {
        Witness { unrecorded_max, ..Witness::default() }
    }

    /// A node has applied something.
    pub fn seen(&mut self, node: NodeId, seen: &Seen) {
        let Seen::Applied { index, term, entry } = seen else { return };
        let checksum = crc32fast::hash(entry);
        if let Some(known) = self.entries.get(index) {
            assert_eq!(*known, (*term, checksum), "node {node} applies another entry {index} than the others");
            return;
        }
        let last = self.entries.last_key_value().map_or(0, |(index, _)| *index);
        assert!(*index > last, "node {node} applies entry {index}, which nobody else has seen before {last}");
        self.entries.insert(*index, (*term, checksum));
        self.apply(*index, entry);
    }

    fn apply(&mut self, index: u64, entry: &[u8]) {
        let commands = decode_entry(entry).expect("an entry that a node has applied");
        let before = self.ledger.clone();
        let mut effects = Vec::new();
        let replies = self.ledger.apply(index, commands.clone(), &mut effects);
        for (command, reply) in commands.iter().zip(&replies) {
            self.history.jobs_changed(&before, command, reply);
            if let (Command::OpenSession { worker, data_dir, .. }, Reply::Session(_)) = (command, reply) {
                self.opened.push((worker.clone(), *data_dir));
            }
            if let (Command::EndSession { session, unstarted_after: UnixMs::MIN, .. }, Reply::Done) = (command, reply) {
                self.closed.insert(*session);
            }
            if let Command::PutJob(job) = command {
                self.check_taken_back(job, reply);
            }
            let is_decision = matches!(command, Command::Decide(decide) if *reply == Reply::Done && !decide.fires.is_empty());
            let is_full = self.unrecorded_max.is_some_and(|max| before.unrecorded_len() >= max);
            assert!(!is_decision || !is_full, "decided with {} runs to be recorded", before.unrecorded_len());
        }
        if effects.contains(&Effect::Unrecorded) {
            for (_, row) in self.ledger.unrecorded().rev().take_while(|(of, _)| *of == index) {
                self.history.row(index, row);
            }
        }
        self.check_moved(&before, &effects);
        self.check_ledger(&effects);
        self.past.insert(index, self.ledger.clone());
        while self.past.len() > PAST_KEPT {
            self.past.pop_first();
        }
    }

    /// Runs whose instants are another revision's by now are asked back (PROTOCOL B5).
    fn check_taken_back(&self, job: &Job, reply: &Reply) {
        let is_its = |run: &OpenRun| {
            matches!(run.trigger, Trigger::Schedule | Trigger::CatchUp)
                && run.scheduled_at > job.effective_from
                && run.job.revision < job.revision
        };
        let mut left = self.ledger.open_runs_of(job.id).filter(|run| *reply == Reply::Done && is_its(run) && run.heir.is_none());
        assert!(left.next().is_none(), "an edit of job {} leaves a run of the revision before alone", job.id);
    }

    fn check_ledger(&self, effects: &[Effect]) {
        let runs: BTreeSet<RunId> =
            effects.iter().filter_map(|effect| if let Effect::Run(run) = effect { Some(*run) } else { None }).collect();
        let touched = runs.iter().filter_map(|run| self.ledger.open_run(*run));
        for run in touched {
            let is_known = run.assigned.is_none_or(|assigned| self.ledger.any_session(assigned.session).is_some());
            assert!(is_known, "a session was forgotten while run {} refers to it", run.id);
            let open = self.ledger.open_runs_of(run.job.id).count();
            assert!(open <= 1 || run.job.spec.overlap == Overlap::Allow, "{open} open runs of job {}", run.job.id);
        }
    }

    /// A run moves, or is skipped, only when what had it before has not started it, and never will (PROTOCOL D1).
    fn check_moved(&mut self, before: &Ledger, effects: &[Effect]) {
        for effect in effects {
            let Effect::Run(id) = effect else { continue };
            let Some(had) = before.open_run(*id).and_then(|run| run.assigned) else { continue };
            let is_proved = match self.ledger.open_run(*id) {
                Some(run) => run.assigned.is_none_or(|assigned| assigned.epoch != had.epoch),
                None => {
                    let row = self.ledger.run(*id);
                    if row.as_ref().is_some_and(is_given_up) {
                        // Of a session that is open, or that its worker has given up, nothing is lost.
                        let is_over = before.any_session(had.session).is_none_or(|session| session.ended_at.is_some());
                        assert!(is_over && !self.closed.contains(&had.session), "run {id} is given up, and its session is not lost");
                    }
                    row.is_some_and(|row| row.state == RunState::Skipped)
                }
            };
            if is_proved {
                self.not_started(*id, had.epoch);
            }
        }
    }

    /// The replica of a node is the same as everybody's at this index.
    pub fn compare(&self, node: NodeId, ledger: &Ledger) {
        if let Some(past) = self.past.get(&ledger.applied()) {
            assert!(past == ledger, "the ledger of node {node} differs at index {}: {}", ledger.applied(), difference(past, ledger));
        }
    }

    /// A run did not start under this epoch, and never will: so its worker says, or the ledger.
    pub fn not_started(&mut self, run: RunId, epoch: Epoch) {
        assert!(self.started.get(&run) != Some(&epoch), "run {run} has started under epoch {epoch}, and it is said that it has not");
        self.refused.insert((run, epoch));
    }

    /// A process begins to live. `is_alive` says of other runs whether one of theirs does.
    pub fn started(&mut self, now_ms: u64, start: &Started, alive: &[(RunId, JobId, bool)]) {
        let (run, job, epoch) = (start.launch.run, start.launch.job, start.epoch);
        self.starts += 1;
        self.last_starts.insert(job, now_ms);
        let before = self.started.insert(run, epoch);
        assert!(before.is_none(), "run {run} of job {job} starts under epochs {before:?} and {epoch}");
        assert!(
            !self.refused.contains(&(run, epoch)),
            "run {run} of job {job} starts after it was proved that it does not (epoch {epoch})"
        );
        // A manual run's instant is when it was asked for.
        let is_manual = start.launch.run.0.get_version_num() == 5;
        let early_ms = start.launch.scheduled_at.since(DAY + now_ms as i64);
        assert!(is_manual || early_ms <= EARLY_MS_MAX, "run {run} of job {job} starts {early_ms} ms before its instant");
        let Some(open) = self.ledger.open_run(run) else { return };
        for (other, of, is_excused) in alive.iter().filter(|(other, _, _)| *other != run) {
            assert!(open.retry_of != Some(*other) || *is_excused, "run {run} starts while {other}, which it repeats, is alive");
            // One that was given up as lost may be alive all the same; then the job's next run is not held up by it.
            let is_beside = *of == job && open.job.spec.overlap != Overlap::Allow && self.ledger.open_run(*other).is_some();
            assert!(!is_beside, "runs {run} and {other} of job {job} at once");
        }
    }
}

/// Lost by the leader's word; a worker that returns says it too, of what it has ended with its lease.
fn is_given_up(row: &Run) -> bool {
    row.reason == Some(Reason::WorkerLost) && row.error.as_deref().is_some_and(|error| error.starts_with("its worker has"))
}

fn difference(one: &Ledger, other: &Ledger) -> String {
    let (one, other) = (format!("{one:#?}"), format!("{other:#?}"));
    let lines = one.lines().zip(other.lines()).filter(|(one, other)| one != other).take(5);
    lines.map(|(one, other)| format!("`{}` and `{}`", one.trim(), other.trim())).collect::<Vec<_>>().join(", ")
}
