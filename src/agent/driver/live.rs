//! What the driver holds of a run that is starting or running, and what is logged of runs.

use std::sync::Arc;

use tokio::sync::watch;

use crate::agent::joblog::{JobLog, Lines};
use crate::agent::output::Output;
use crate::agent::runs::{Captured, Ended, Launch};
use crate::agent::spool::Spool;
use crate::model::{RunState, Stream};

/// What the driver holds of a run that is starting or running.
pub struct LiveRun {
    pub launch: Arc<Launch>,
    pub late_us: i64,
    pub asked_at_us: i64,
    pub log: JobLog,
    pub is_start_said: bool,
    pub output: Output,
    pub lines: Option<Lines>,
    /// Kept once somebody reads along.
    pub readable: Option<watch::Sender<u64>>,
}

impl LiveRun {
    /// Logs the start, once; output can be here before the guardian's word.
    pub fn say_started(&mut self, now_us: i64) {
        if !std::mem::replace(&mut self.is_start_said, true) {
            let late_ms = (self.late_us + now_us - self.asked_at_us) as f64 / 1000.0;
            let Launch { run, job_name, attempt, .. } = &*self.launch;
            self.log.event(|| format!("job {job_name:?} run {run} started (attempt {attempt}, {late_ms:.1} ms after its instant)"));
        }
    }

    pub fn push(&mut self, spool: &mut Spool, now_us: i64, stream: Stream, bytes: &[u8]) {
        self.say_started(now_us);
        self.output.push(spool, stream, bytes);
        if let Some(lines) = &mut self.lines {
            lines.push(now_us, stream, bytes);
        }
        if let Some(readable) = &self.readable {
            readable.send_replace(self.output.readable());
        }
    }

    pub fn finish(self, spool: &mut Spool) -> Captured {
        if let Some(lines) = self.lines {
            lines.finish();
        }
        self.output.finish(spool)
    }
}

/// The log line of a run's end.
pub fn end_line(ended: &Ended) -> String {
    let outcome = &ended.outcome;
    let mut text = format!("job {:?} run {} {}", ended.job_name, ended.run, outcome.state.name());
    let mut add = |more: String| {
        text.push_str(", ");
        text.push_str(&more);
    };
    if let Some(code) = outcome.exit_code.filter(|_| outcome.state != RunState::Succeeded) {
        add(format!("exit code {code}"));
    }
    if let Some(signal) = outcome.signal {
        add(format!("signal {signal}"));
    }
    if let Some(reason) = outcome.reason {
        add(reason.name().into());
    }
    if let Some(started_at) = outcome.started_at {
        add(format!("{} ms, {} bytes of output", outcome.finished_at.since(started_at), outcome.output_bytes));
    }
    if let Some(error) = &outcome.error {
        add(error.clone());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{JobId, Outcome, Reason, RunId, UnixMs};

    #[test]
    fn the_end_of_a_run_is_one_line_that_says_what_matters() {
        let of = |outcome: Outcome| {
            let run = RunId(uuid::Uuid::nil());
            let ended = Ended { run, epoch: 1, job: JobId(1), job_name: "Tidy".into(), outcome, output: None, spooled_bytes: 0 };
            end_line(&ended).replace("job \"Tidy\" run 00000000-0000-0000-0000-000000000000 ", "")
        };
        let unstarted = Outcome::unstarted(RunState::Cancelled, Some(Reason::Requested), UnixMs(5_000));
        assert_eq!(of(unstarted.clone()), "cancelled, requested");
        let ran = Outcome {
            state: RunState::Succeeded,
            reason: None,
            started_at: Some(UnixMs(4_000)),
            exit_code: Some(0),
            output_bytes: 7,
            ..unstarted
        };
        assert_eq!(of(ran.clone()), "succeeded, 1000 ms, 7 bytes of output");
        assert_eq!(
            of(Outcome { state: RunState::Failed, exit_code: Some(3), ..ran.clone() }),
            "failed, exit code 3, 1000 ms, 7 bytes of output"
        );
        let killed = Outcome { state: RunState::TimedOut, exit_code: None, signal: Some(9), error: Some("disk full".into()), ..ran };
        assert_eq!(of(killed), "timed_out, signal 9, 1000 ms, 7 bytes of output, disk full");
    }
}
