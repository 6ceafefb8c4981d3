-- One part of a list, as in run_list_of_job_and_state.sql, of all jobs.
SELECT
    id, job_id, job_name, job_revision, "trigger", retry_of, scheduled_at, attempt, state, reason, worker_id, started_at, finished_at,
    exit_code, signal, error, output_bytes, output_truncated, skipped_from, skipped_count
FROM runs INDEXED BY runs_state
WHERE state = @state AND (scheduled_at, id) < (?1, ?2) AND scheduled_at >= ?3
