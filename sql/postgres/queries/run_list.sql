-- The lists of the states $1, each out of its index in the right order, merged. From below ($2, $3) in the order of the list down to the
-- instant $4; $6 and $7 are the days of these two instants, which tell the partitions.
SELECT listed.*
FROM unnest($1::text[]) AS wanted (state)
CROSS JOIN LATERAL (
    SELECT
        id, job_id, job_name, job_revision, trigger, retry_of, scheduled_at, attempt, state, reason, worker_id, started_at, finished_at,
        exit_code, signal, error, output_bytes, output_truncated, skipped_from, skipped_count
    FROM runs
    WHERE state = wanted.state AND (scheduled_at, id) < ($2, $3) AND scheduled_at >= $4 AND day <= $6 AND day >= $7
    ORDER BY day DESC, runs.scheduled_at DESC, runs.id DESC
    LIMIT $5) AS listed
ORDER BY listed.scheduled_at DESC, listed.id DESC
LIMIT $5
