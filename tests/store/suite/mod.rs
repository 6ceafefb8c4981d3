//! The conformance suite: one function for each promise of `chrono_flow::store`, over a `Harness` that says how to come by a store.
//! `promises!` makes them the tests of one store.

pub mod durability;
pub mod feed;
pub mod history;
pub mod jobs;
pub mod output;
pub mod retention;

use std::future::Future;
use std::sync::Arc;

use chrono_flow::model::{JobId, JobSpec, OutputPart, Run, RunId, RunState, Stream, Trigger, UnixMs, WorkerId};
use chrono_flow::store::{OutputRecord, RecordBatch, RunRecord, Store};
use uuid::Uuid;

/// One store that nobody else uses, and how to open it.
pub trait Harness: Sized + Send + Sync + 'static {
    type Store: Store;
    /// An empty store.
    fn fresh() -> Self;
    /// The one that another process knows by its `location`.
    fn at(location: &str) -> Self;
    fn location(&self) -> String;
    /// Opens the store as it was left.
    fn open(&self) -> impl Future<Output = Arc<Self::Store>> + Send;
    /// Ends an open store in order.
    fn close(&self, store: Arc<Self::Store>) -> impl Future<Output = ()> + Send;
}

/// Makes the suite's promises the tests of one store. A promise that is not listed is dead code, which the lints refuse.
macro_rules! promises {
    ($harness:ty) => {
        $crate::suite::promises! { $harness:
            durability: [
                what_was_acknowledged_survives_kill_9, a_store_belongs_to_one_cluster, a_check_changes_nothing,
                readers_and_writers_run_side_by_side,
            ]
            feed: [
                the_feed_is_dense_and_in_the_order_of_commits, who_follows_the_feed_misses_nothing, the_feed_keeps_only_the_latest_change_of_a_job,
                tombstones_stay_until_the_feed_has_passed_them, the_signal_turns_with_each_change, the_feed_goes_on_after_a_restart,
            ]
            history: [
                a_run_reads_back_as_it_was_recorded, a_row_gives_way_only_to_a_greater_ledger_index, recording_again_changes_nothing,
                pages_of_history_neither_overlap_nor_leave_gaps, lists_of_runs_agree_with_a_naive_search, last_runs_are_the_newest_launched,
                history_outlives_its_job, a_bad_row_is_set_aside_and_stops_nothing_else,
            ]
            jobs: [
                a_job_reads_back_as_it_was_written, ids_are_never_used_twice, a_name_belongs_to_one_job_at_a_time,
                of_many_creates_of_one_name_one_wins, a_stale_revision_is_refused, the_same_specification_again_changes_nothing,
                effective_from_never_decreases, by_name_creates_then_replaces, a_deleted_job_is_gone_but_did_exist,
                pages_of_jobs_are_complete_and_in_order, filters_find_jobs_by_name_state_and_labels, what_would_not_read_back_is_not_written,
            ]
            output: [
                output_reads_back_from_any_offset, a_page_written_again_is_replaced, holes_stay_holes, long_output_is_read_in_bounded_pieces,
            ]
            retention: [
                runs_beyond_their_age_go_with_their_output, beyond_the_number_the_oldest_go, pruning_goes_in_batches_until_nothing_is_left,
                the_number_of_runs_stays_exact,
            ]
        }
        /// Not a test: the body of a child process that `what_was_acknowledged_survives_kill_9` starts and kills.
        #[test]
        #[ignore]
        fn child_that_writes_until_it_is_killed() {
            $crate::suite::durability::child::<$harness>();
        }
    };
    ($harness:ty: $($area:ident: [$($promise:ident),* $(,)?])*) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                $crate::suite::$area::$promise::<$harness>().await;
            }
        )*)*
    };
}
pub(crate) use promises;

pub const NOON: UnixMs = UnixMs::from_secs(1_790_000_000);

pub async fn open_fresh<H: Harness>() -> (H, Arc<H::Store>) {
    let harness = H::fresh();
    let store = harness.open().await;
    (harness, store)
}

pub async fn reopen<H: Harness>(harness: &H, store: Arc<H::Store>) -> Arc<H::Store> {
    harness.close(store).await;
    harness.open().await
}

pub fn spec(name: &str) -> JobSpec {
    JobSpec::new(name, "* * * * *", "true")
}

/// Run number `number`, whose id says nothing about its instant.
pub fn run_id(number: u64) -> RunId {
    RunId(Uuid::from_u64_pair(number.wrapping_mul(0x9E37_79B9_7F4A_7C15), number))
}

pub fn run(number: u64, job: JobId, scheduled_at: UnixMs, state: RunState) -> Run {
    Run {
        id: run_id(number),
        job_id: job,
        job_name: format!("job {job}"),
        job_revision: 1,
        trigger: Trigger::Schedule,
        retry_of: None,
        scheduled_at,
        attempt: 1,
        state,
        reason: None,
        worker_id: Some(WorkerId("worker-1".into())),
        started_at: Some(scheduled_at + 3),
        finished_at: Some(scheduled_at + 20),
        exit_code: Some(0),
        signal: None,
        error: None,
        output_bytes: 0,
        output_truncated: false,
        skipped_from: None,
        skipped_count: None,
    }
}

/// Records runs at one ledger index; none may be set aside.
pub async fn record(store: &impl Store, ledger_index: u64, runs: &[Run]) {
    let runs = runs.iter().map(|run| RunRecord { ledger_index, run: run.clone() }).collect();
    assert_eq!(store.record(RecordBatch { runs, output: Vec::new() }).await, Ok(Vec::new()));
}

pub fn part(offset: u64, stream: Stream, bytes: &[u8]) -> OutputPart {
    OutputPart { offset, stream, bytes: bytes.to_vec() }
}

/// Records one page of output.
pub async fn record_page(store: &impl Store, run: RunId, parts: Vec<OutputPart>) {
    let page = OutputRecord { run, offset: parts[0].offset, parts };
    assert_eq!(store.record(RecordBatch { runs: Vec::new(), output: vec![page] }).await, Ok(Vec::new()));
}

/// A small generator of numbers: the same seed gives the same ones.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
