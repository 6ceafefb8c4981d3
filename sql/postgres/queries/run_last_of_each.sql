-- The newest run of each of the jobs $1 in one of the states $2.
SELECT last.*
FROM unnest($1::bigint[]) AS wanted_job (id)
CROSS JOIN LATERAL (
    SELECT newest.*
    FROM unnest($2::text[]) AS wanted (state)
    CROSS JOIN LATERAL (
        SELECT
        id, job_id, job_name, job_revision, trigger, retry_of, scheduled_at, attempt, state, reason, worker_id, started_at, finished_at,
        exit_code, signal, error, output_bytes, output_truncated, skipped_from, skipped_count
        FROM runs
        WHERE job_id = wanted_job.id AND state = wanted.state
        ORDER BY day DESC, runs.scheduled_at DESC, runs.id DESC
        LIMIT 1) AS newest
    ORDER BY newest.scheduled_at DESC, newest.id DESC
    LIMIT 1) AS last
