-- One part of a list, of one state; the parts are joined by UNION ALL, ordered and limited as a whole, and SQLite merges them row by
-- row. @state stands for a name of a state. From below (?1, ?2) in the order of the list down to the instant ?3.
SELECT
    id, job_id, job_name, job_revision, "trigger", retry_of, scheduled_at, attempt, state, reason, worker_id, started_at, finished_at,
    exit_code, signal, error, output_bytes, output_truncated, skipped_from, skipped_count
FROM runs INDEXED BY runs_job_state
WHERE job_id = ?5 AND state = @state AND (scheduled_at, id) < (?1, ?2) AND scheduled_at >= ?3
