//! The defaults and limits of the public interface, in one table (DESIGN section 8; the README prints the same one).

/// Characters in a job's name, at most.
pub const NAME_CHARS_MAX: usize = 255;
/// Bytes of a job's schedule expression, at most.
pub const SCHEDULE_BYTES_MAX: usize = 1024;
/// Bytes of a job's description, at most.
pub const DESCRIPTION_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a job's command, at most.
pub const COMMAND_BYTES_MAX: usize = 256 * 1024;
/// Bytes of all names and values of a job's environment together, at most.
pub const ENV_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a working directory's path, at most (PATH_MAX without its NUL).
pub const WORKING_DIR_BYTES_MAX: usize = 4095;
/// Labels of a job, at most.
pub const LABELS_MAX: usize = 64;
/// Characters in a label's name, at most; and in its value.
pub const LABEL_NAME_CHARS_MAX: usize = 63;
pub const LABEL_VALUE_CHARS_MAX: usize = 255;
/// Bytes of a request's body, at most.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of an Idempotency-Key, at most.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// How long a leader remembers an Idempotency-Key in the ledger; later the database answers (PROTOCOL B12).
pub const IDEMPOTENCY_KEY_KEPT_MS: i64 = 24 * 3600 * 1000;

pub const CATCH_UP_WINDOW_S_DEFAULT: u32 = 86_400;
pub const CATCH_UP_WINDOW_S_MAX: u32 = 31 * 86_400;
pub const CATCH_UP_MAX_DEFAULT: u32 = 100;
pub const CATCH_UP_MAX_MAX: u32 = 10_000;
pub const START_DEADLINE_S_DEFAULT: u32 = 30;
pub const START_DEADLINE_S_MAX: u32 = 86_400;
pub const LOST_AFTER_S_DEFAULT: u32 = 3_600;
pub const LOST_AFTER_S_MAX: u32 = 31 * 86_400;
pub const TIMEOUT_S_MAX: u32 = 366 * 86_400;
pub const KILL_GRACE_S_DEFAULT: u32 = 10;
pub const KILL_GRACE_S_MAX: u32 = 3_600;
pub const RETRY_MAX_ATTEMPTS_DEFAULT: u32 = 1;
pub const RETRY_MAX_ATTEMPTS_MAX: u32 = 100;
pub const RETRY_BACKOFF_S_DEFAULT: u32 = 5;
pub const RETRY_MAX_BACKOFF_S_DEFAULT: u32 = 3_600;
pub const RETRY_BACKOFF_S_MAX: u32 = 86_400;
/// Attempts of a launch that may be lost with their workers and followed by another one (`on_worker_lost: retry`), at most.
pub const WORKER_LOSSES_MAX: u32 = 100;
pub const MAX_OUTPUT_BYTES_DEFAULT: u32 = 1024 * 1024;
pub const MAX_OUTPUT_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// Rows of one page of a list, by default and at most.
pub const PAGE_ROWS_DEFAULT: u32 = 1_000;
pub const PAGE_ROWS_MAX: u32 = 10_000;
/// Coming fires that one preview shows, by default and at most.
pub const PREVIEW_FIRES_DEFAULT: u32 = 10;
pub const PREVIEW_FIRES_MAX: u32 = 1_000;

pub const WORKER_SLOTS_DEFAULT: u32 = 64;
pub const WORKER_SLOTS_MAX: u32 = 100_000;
/// How often a worker sends a heartbeat.
pub const HEARTBEAT_MS: i64 = 1_000;
/// How long after a heartbeat was sent its grant lets the worker start runs (PROTOCOL C5).
pub const START_PERMIT_MS: i64 = 5_000;
/// How long after a heartbeat was sent its grant keeps the worker's session open (PROTOCOL C5).
pub const SESSION_LEASE_MS: i64 = 15_000;
/// How far ahead of its instant a fire is decided and staged.
pub const LOOKAHEAD_MS_DEFAULT: i64 = 2_000;
/// How far a clock may be off the majority's (PROTOCOL H2).
pub const CLOCK_SKEW_MS_DEFAULT: i64 = 500;
/// Decisions that the ledger holds while the store can't take them; at this many, deciding stops (PROTOCOL B10).
pub const UNRECORDED_MAX_DEFAULT: u64 = 1_000_000;
/// History: kept for so long, and so many runs.
pub const HISTORY_DAYS_DEFAULT: u32 = 30;
pub const HISTORY_RUNS_DEFAULT: u64 = 10_000_000;
