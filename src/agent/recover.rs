//! What an earlier life has left behind, and what is made of it (PROTOCOL E2): what surely did not start is said so, what may have started
//! is made sure to be dead and reported as lost, what ended is reported again. Nothing is started from the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;

use super::guardian::{Leftover, kill_leftover};
use super::output;
use super::runs::{Captured, Ended, Now, Record, Runs};
use super::spool::Spool;
use crate::model::{ClusterId, Epoch, JobId, Outcome, Reason, RunId, RunState, SessionId, UnixMs};
use crate::mutation::{self, Mutation};

/// The journal's records, put together.
#[derive(Default)]
pub struct Past {
    pub cluster: Option<ClusterId>,
    pub session: Option<SessionId>,
    /// Records from before another boot may be missing, and no session has been opened since.
    lacks_records: bool,
    runs: BTreeMap<RunId, PastRun>,
    recorded_up_to: u64,
}

enum PastRun {
    Accepted { epoch: Epoch, job: JobId, job_name: Arc<str> },
    MaybeStarted { epoch: Epoch, job: JobId, job_name: Arc<str>, process: Option<PastProcess> },
    Ended { ended: Arc<Ended>, closed_at: Option<u64> },
    Revoked { epoch: Epoch },
}

#[derive(Clone, Copy)]
struct PastProcess {
    pid: u32,
    start_time_ticks: u64,
    at: UnixMs,
}

impl Past {
    pub fn of(records: Vec<Record>) -> Past {
        let mut past = Past::default();
        for record in records {
            past.enter(record);
        }
        past
    }

    /// What the new journal begins with.
    pub fn session_record(&self) -> Option<Record> {
        Some(Record::Session { cluster: self.cluster?, session: self.session? })
    }

    /// Enters one record. What is written again to a newer file says the same or less, and changes nothing.
    fn enter(&mut self, record: Record) {
        match record {
            Record::Session { cluster, session } => {
                if self.session != Some(session) {
                    self.runs.retain(|_, run| !matches!(run, PastRun::Revoked { .. }));
                    self.lacks_records = false;
                }
                (self.cluster, self.session) = (Some(cluster), Some(session));
            }
            Record::Accepted { run, epoch, job, job_name } => {
                let is_new = match self.runs.get(&run) {
                    None => true,
                    Some(PastRun::Accepted { epoch: known, .. } | PastRun::Revoked { epoch: known }) => *known < epoch,
                    Some(PastRun::MaybeStarted { .. } | PastRun::Ended { .. }) => false,
                };
                if is_new {
                    self.runs.insert(run, PastRun::Accepted { epoch, job, job_name });
                }
            }
            Record::Starting { run } => self.change(run, |run| match run {
                PastRun::Accepted { epoch, job, job_name } => PastRun::MaybeStarted { epoch, job, job_name, process: None },
                other => other,
            }),
            Record::Started { run, pid, start_time_ticks, at } => {
                if let Some(PastRun::MaybeStarted { process, .. }) = self.runs.get_mut(&run) {
                    *process = Some(PastProcess { pid, start_time_ticks, at });
                }
            }
            Record::NotStarted { run } => self.change(run, |run| match run {
                PastRun::MaybeStarted { epoch, job, job_name, .. } => PastRun::Accepted { epoch, job, job_name },
                other => other,
            }),
            Record::Ended(ended) => {
                if !matches!(self.runs.get(&ended.run), Some(PastRun::Ended { .. })) {
                    self.runs.insert(ended.run, PastRun::Ended { ended, closed_at: None });
                }
            }
            Record::Revoked { run, epoch } => match self.runs.get_mut(&run) {
                Some(PastRun::MaybeStarted { .. } | PastRun::Ended { .. }) => {}
                Some(PastRun::Accepted { epoch: known, .. } | PastRun::Revoked { epoch: known }) if *known > epoch => {}
                _ => drop(self.runs.insert(run, PastRun::Revoked { epoch })),
            },
            Record::Acknowledged { run, closed_at } => {
                if let Some(PastRun::Ended { closed_at: known, .. }) = self.runs.get_mut(&run) {
                    *known = Some(closed_at);
                }
            }
            Record::NotWhole => self.lacks_records = true,
            Record::RecordedUpTo { index } => self.recorded_up_to = self.recorded_up_to.max(index),
        }
    }

    fn change(&mut self, run: RunId, change: impl FnOnce(PastRun) -> PastRun) {
        if let Some(past) = self.runs.remove(&run) {
            self.runs.insert(run, change(past));
        }
    }
}

/// What an earlier life has left outside of the journal.
pub trait Remains {
    /// Makes sure that a process and its group are dead.
    fn kill(&mut self, pid: u32, start_time_ticks: u64) -> Leftover;
    /// What there is of a run's output.
    fn output(&mut self, run: RunId) -> Captured;
    /// The output of an ended run stays.
    fn hold(&mut self, ended: &Ended);
    /// Everything else goes; answers how many files that were.
    fn remove_orphans(&mut self, wanted: &BTreeSet<RunId>) -> Result<usize>;
}

impl Remains for Spool {
    fn kill(&mut self, pid: u32, start_time_ticks: u64) -> Leftover {
        kill_leftover(pid, start_time_ticks)
    }

    fn output(&mut self, run: RunId) -> Captured {
        output::recover(self, run)
    }

    fn hold(&mut self, ended: &Ended) {
        self.hold_inline(ended.inline_bytes());
        self.hold_file(ended.spooled_bytes);
    }

    fn remove_orphans(&mut self, wanted: &BTreeSet<RunId>) -> Result<usize> {
        Spool::remove_orphans(self, wanted)
    }
}

/// Enters the past into the table. Call it once the guardian is ready: then nothing of an earlier life runs, unless that life's guardian
/// was killed itself. Blocks where processes must be waited for.
pub fn recover(past: Past, is_of_other_boot: bool, runs: &mut Runs, remains: &mut impl Remains, now: Now) -> Result<()> {
    let mut wanted = BTreeSet::new();
    let (mut lost, mut unreported) = (0, 0);
    if is_of_other_boot || past.lacks_records && !mutation::is(Mutation::ForgetsLostRecords) {
        runs.restore_not_whole();
    }
    for (run, past_run) in past.runs {
        match past_run {
            PastRun::Accepted { epoch, .. } if !is_of_other_boot => runs.restore_not_started(now, run, epoch),
            PastRun::MaybeStarted { epoch, .. } if mutation::is(Mutation::StartingIsUnstarted) => runs.restore_not_started(now, run, epoch),
            PastRun::Revoked { epoch } => runs.restore_not_started(now, run, epoch),
            PastRun::Accepted { epoch, job, job_name } => {
                lost += 1;
                let error = "the machine was restarted; whether the command was started before is not known";
                runs.restore_lost(lose(run, epoch, job, job_name, None, error.into(), now, remains));
            }
            PastRun::MaybeStarted { epoch, job, job_name, process } => {
                lost += 1;
                let error = end(process, is_of_other_boot, remains);
                let ended = lose(run, epoch, job, job_name, process.map(|process| process.at), error, now, remains);
                wanted.extend((ended.spooled_bytes > 0).then_some(run));
                runs.restore_lost(ended);
            }
            PastRun::Ended { closed_at: Some(index), .. } if index <= past.recorded_up_to => {}
            PastRun::Ended { ended, closed_at } => {
                unreported += u32::from(closed_at.is_none());
                remains.hold(&ended);
                wanted.extend((ended.spooled_bytes > 0).then_some(run));
                runs.restore_ended(ended, closed_at);
            }
        }
    }
    let orphans = remains.remove_orphans(&wanted)?;
    if lost + unreported > 0 || orphans > 0 {
        log::info!(
            "from the journal: {lost} runs that may have been running are lost, {unreported} ended ones are to be reported; {orphans} spool files of no use removed"
        );
    }
    Ok(())
}

/// Makes sure that a run is dead, and says what is known of it.
fn end(process: Option<PastProcess>, is_of_other_boot: bool, remains: &mut impl Remains) -> String {
    match process {
        _ if is_of_other_boot => "the machine was restarted while the command may have been running; its outcome is not known".into(),
        None => "the worker ended while it was starting the command; it may have been started, and is stopped".into(),
        Some(PastProcess { pid, start_time_ticks, .. }) => match remains.kill(pid, start_time_ticks) {
            Leftover::Gone | Leftover::Killed => {
                "the worker ended while the command was running, and the command with it; its outcome is not known".into()
            }
            Leftover::Remains => {
                format!("the worker ended while the command was running; some of its process group {pid} could not be killed")
            }
        },
    }
}

#[allow(clippy::too_many_arguments)]
fn lose(
    run: RunId,
    epoch: Epoch,
    job: JobId,
    job_name: Arc<str>,
    started_at: Option<UnixMs>,
    error: String,
    now: Now,
    remains: &mut impl Remains,
) -> Arc<Ended> {
    let captured = remains.output(run);
    let outcome = Outcome {
        state: RunState::Lost,
        reason: Some(Reason::WorkerRestarted),
        started_at,
        finished_at: now.wall(),
        exit_code: None,
        signal: None,
        error: Some(error),
        output_bytes: captured.bytes,
        output_truncated: captured.is_truncated,
    };
    Arc::new(Ended { run, epoch, job, job_name, outcome, output: captured.inline, spooled_bytes: captured.spooled_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::runs::Limits;
    use uuid::Uuid;

    fn run(n: u128) -> RunId {
        RunId(Uuid::from_u128(n))
    }

    fn accepted(n: u128, epoch: Epoch) -> Record {
        Record::Accepted { run: run(n), epoch, job: JobId(1), job_name: "job".into() }
    }

    /// What the next session is told after such a journal: (not started, to report).
    fn told(records: Vec<Record>, is_of_other_boot: bool) -> (Vec<u128>, Vec<u128>) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path().join("spool"), 1 << 20, 1 << 20).unwrap();
        let past = Past::of(records);
        let mut runs = Runs::new(Limits { slots: 1, held_max: 100 }, past.cluster, past.session);
        let now = Now { boot_us: 1, wall_us: 1 };
        recover(past, is_of_other_boot, &mut runs, &mut spool, now).unwrap();
        let claims = runs.claims(None);
        let numbers = |refs: Vec<crate::rpc::wire::RunRef>| refs.iter().map(|of| of.run.0.as_u128()).collect();
        (numbers(claims.not_started), numbers(claims.to_report))
    }

    fn ended(n: u128) -> Record {
        let outcome = Outcome::unstarted(RunState::Cancelled, None, UnixMs(1));
        let ended = Ended { run: run(n), epoch: 1, job: JobId(1), job_name: "job".into(), outcome, output: None, spooled_bytes: 0 };
        Record::Ended(Arc::new(ended))
    }

    #[test]
    fn only_what_was_not_starting_is_said_not_to_have_started() {
        let started = Record::Started { run: run(3), pid: u32::MAX, start_time_ticks: 1, at: UnixMs(1) };
        let starting = |n| Record::Starting { run: run(n) };
        let records =
            vec![accepted(1, 1), accepted(2, 1), accepted(3, 1), accepted(4, 1), accepted(5, 1), starting(2), starting(3), started];
        let end = vec![starting(4), Record::NotStarted { run: run(4) }, Record::Revoked { run: run(5), epoch: 1 }];
        let records = [records, end].concat();
        assert_eq!(told(records.clone(), false), (vec![1, 4, 5], vec![2, 3]));
        assert_eq!(told(records, true), (vec![5], vec![1, 2, 3, 4]), "after another boot everything accepted counts as maybe started");
    }

    #[test]
    fn a_journal_that_lacks_records_says_so_until_the_next_session_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path().join("spool"), 1 << 20, 1 << 20).unwrap();
        let now = Now { boot_us: 1, wall_us: 1 };
        let mut is_whole_after = |records: &[Record], is_of_other_boot| {
            let past = Past::of(records.to_vec());
            let mut runs = Runs::new(Limits { slots: 1, held_max: 100 }, past.cluster, past.session);
            recover(past, is_of_other_boot, &mut runs, &mut spool, now).unwrap();
            (runs.claims(None).journal_is_whole, runs.head_records())
        };
        let session = |n| Record::Session { cluster: ClusterId(Uuid::from_u128(1)), session: SessionId(n) };
        let (is_whole, second_life) = is_whole_after(&[session(1)], true);
        assert!(!is_whole);
        assert!(!is_whole_after(&second_life, false).0, "the process is started again, and no session was open in between");
        let third_life = [second_life, vec![session(2)]].concat();
        assert!(is_whole_after(&third_life, false).0);
    }

    #[test]
    fn what_is_acknowledged_is_not_reported_again_and_what_is_recorded_is_forgotten() {
        let acknowledged = |n, closed_at| Record::Acknowledged { run: run(n), closed_at };
        let records = vec![
            ended(1),
            ended(2),
            ended(3),
            ended(4),
            acknowledged(2, 10),
            acknowledged(3, 5),
            acknowledged(4, 0),
            Record::RecordedUpTo { index: 5 },
        ];
        assert_eq!(told(records.clone(), false), (vec![], vec![1]));
        let kept: Vec<u128> = Past::of(records).runs.keys().map(|run| run.0.as_u128()).collect();
        assert_eq!(kept, [1, 2, 3, 4]);
    }

    #[test]
    fn a_new_session_ends_the_proofs_of_the_one_before_and_repetition_changes_nothing() {
        let session = |n| Record::Session { cluster: ClusterId(Uuid::from_u128(1)), session: SessionId(n) };
        let revoked = |n, epoch| Record::Revoked { run: run(n), epoch };
        let records = vec![session(1), accepted(1, 1), revoked(1, 1), session(2), accepted(2, 1), revoked(2, 1), session(2)];
        assert_eq!(told(records, false), (vec![2], vec![]));
        let starting = Record::Starting { run: run(1) };
        let carried = vec![accepted(1, 2), starting.clone(), accepted(1, 2), starting, ended(1), accepted(1, 2)];
        assert_eq!(told(carried, false), (vec![], vec![1]), "a file that was rewritten in part");
    }
}
