SELECT
    id, job_id, job_name, job_revision, trigger, retry_of, scheduled_at, attempt, state, reason, worker_id, started_at, finished_at,
    exit_code, signal, error, output_bytes, output_truncated, skipped_from, skipped_count
FROM runs
WHERE id = $1 AND day = $2
