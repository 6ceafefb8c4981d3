//! What a job is: the fields that users write, with the defaults filled in, and what the store adds to them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{JobId, Revision, UnixMs, limits};

/// What a job runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `sh -c` with the job's command.
    #[default]
    Shell,
}

/// What becomes of a fire while an earlier run of the same job is still open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Launch it beside the others.
    #[default]
    Allow,
    /// Skip it, reason `overlap`.
    Skip,
    /// Keep one fire waiting until the open run has ended; skip further ones, reason `queue_full`.
    QueueOne,
    /// Cancel the open run and launch once it has ended; of several the newest wins, the others are skipped, reason `superseded`.
    Replace,
}

/// What becomes of fires that could not start within `start_deadline_s` of their instants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// All are skipped, reason `missed`.
    None,
    /// The last one is launched late, unless a fire within its deadline launches anyway; the others are skipped.
    #[default]
    Last,
    /// All within `catch_up_window_s` are launched late, the newest `catch_up_max` of them; older ones are skipped.
    All,
}

/// What becomes of a run that may have started when its worker falls silent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnWorkerLost {
    /// It waits for its worker, up to `lost_after_s`.
    #[default]
    Wait,
    /// It gets a new attempt on another worker once the command has surely been ended (PROTOCOL D2).
    Retry,
}

/// Attempts after a failed one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// All attempts, the first included; 1 means no retry.
    pub max_attempts: u32,
    /// Wait before the second attempt; doubles with each further one.
    pub backoff_s: u32,
    /// The longest wait between two attempts.
    pub max_backoff_s: u32,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            max_attempts: limits::RETRY_MAX_ATTEMPTS_DEFAULT,
            backoff_s: limits::RETRY_BACKOFF_S_DEFAULT,
            max_backoff_s: limits::RETRY_MAX_BACKOFF_S_DEFAULT,
        }
    }
}

impl Retry {
    /// The wait before attempt number `attempt` (2 or more), in milliseconds.
    pub fn backoff_ms(&self, attempt: u32) -> i64 {
        let doublings = attempt.saturating_sub(2).min(31);
        let wait_s = (u64::from(self.backoff_s) << doublings).min(u64::from(self.max_backoff_s));
        wait_s as i64 * 1000
    }
}

/// Everything about a job that its users decide. The JSON names are the field names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JobSpec {
    pub name: Box<str>,
    pub schedule: Box<str>,
    pub time_zone: Box<str>,
    pub kind: Kind,
    pub command: Box<str>,
    pub is_enabled: bool,
    pub description: Option<Box<str>>,
    pub labels: BTreeMap<String, String>,
    pub env: BTreeMap<String, String>,
    pub working_dir: Option<Box<str>>,
    pub timeout_s: Option<u32>,
    pub kill_grace_s: u32,
    pub retry: Retry,
    pub overlap: Overlap,
    pub catch_up: CatchUp,
    pub catch_up_window_s: u32,
    pub catch_up_max: u32,
    pub start_deadline_s: u32,
    /// Only workers that have all of these labels get its runs.
    #[serde(default)]
    pub worker_selector: BTreeMap<String, String>,
    #[serde(default)]
    pub on_worker_lost: OnWorkerLost,
    /// How long a silent worker's run stays open.
    #[serde(default = "lost_after_s_default")]
    pub lost_after_s: u32,
    /// Fires before this instant do not exist.
    pub starts_at: Option<UnixMs>,
    /// Fires at or after this instant do not exist.
    pub ends_at: Option<UnixMs>,
    pub max_output_bytes: u32,
}

impl JobSpec {
    /// A job with the defaults of DESIGN section 8.
    pub fn new(name: &str, schedule: &str, command: &str) -> JobSpec {
        JobSpec {
            name: name.into(),
            schedule: schedule.into(),
            time_zone: "UTC".into(),
            kind: Kind::Shell,
            command: command.into(),
            is_enabled: true,
            description: None,
            labels: BTreeMap::new(),
            env: BTreeMap::new(),
            working_dir: None,
            timeout_s: None,
            kill_grace_s: limits::KILL_GRACE_S_DEFAULT,
            retry: Retry::default(),
            overlap: Overlap::default(),
            catch_up: CatchUp::default(),
            catch_up_window_s: limits::CATCH_UP_WINDOW_S_DEFAULT,
            catch_up_max: limits::CATCH_UP_MAX_DEFAULT,
            start_deadline_s: limits::START_DEADLINE_S_DEFAULT,
            worker_selector: BTreeMap::new(),
            on_worker_lost: OnWorkerLost::default(),
            lost_after_s: limits::LOST_AFTER_S_DEFAULT,
            starts_at: None,
            ends_at: None,
            max_output_bytes: limits::MAX_OUTPUT_BYTES_DEFAULT,
        }
    }
}

/// Rows from before this field was there have its default.
fn lost_after_s_default() -> u32 {
    limits::LOST_AFTER_S_DEFAULT
}

/// A job as the store holds it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub revision: Revision,
    /// This job's place in the feed of all changes to jobs (PROTOCOL A1).
    pub change_seq: u64,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
    /// This revision fires at instants after this one only; never decreases from one revision to the next (PROTOCOL A3).
    pub effective_from: UnixMs,
    pub spec: JobSpec,
}

impl Job {
    /// The instant from which an `@every` schedule counts.
    pub fn anchor(&self) -> UnixMs {
        self.spec.starts_at.unwrap_or(self.created_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_from_before_a_field_was_there_reads_with_its_default() {
        let mut spec = JobSpec::new("n", "* * * * *", "true");
        let mut row = serde_json::to_value(&spec).unwrap();
        for field in ["worker_selector", "on_worker_lost", "lost_after_s"] {
            row.as_object_mut().unwrap().remove(field).unwrap();
        }
        assert_eq!(serde_json::from_value::<JobSpec>(row).unwrap(), spec);
        spec.on_worker_lost = OnWorkerLost::Retry;
        assert_eq!(serde_json::to_value(&spec).unwrap()["on_worker_lost"], "retry");
    }

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let retry = Retry { max_attempts: 100, backoff_s: 5, max_backoff_s: 60 };
        let waits: Vec<i64> = (2..8).map(|attempt| retry.backoff_ms(attempt)).collect();
        assert_eq!(waits, [5_000, 10_000, 20_000, 40_000, 60_000, 60_000]);
        assert_eq!(retry.backoff_ms(100), 60_000);
        assert_eq!(Retry { max_attempts: 3, backoff_s: 0, max_backoff_s: 60 }.backoff_ms(3), 0);
    }
}
