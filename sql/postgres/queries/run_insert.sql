-- Rows of runs that have none yet; answers which these are.
INSERT INTO runs (
    day, id, output_day, job_id, job_name, job_revision, trigger, retry_of, scheduled_at, attempt, state, reason, worker_id, started_at,
    finished_at, exit_code, signal, error, output_bytes, output_truncated, skipped_from, skipped_count, ledger_index)
SELECT * FROM unnest(
    $1::integer[], $2::uuid[], $3::integer[], $4::bigint[], $5::text[], $6::bigint[], $7::text[], $8::uuid[], $9::bigint[],
    $10::bigint[], $11::text[], $12::text[], $13::text[], $14::bigint[], $15::bigint[], $16::integer[], $17::integer[], $18::text[],
    $19::bigint[], $20::boolean[], $21::bigint[], $22::bigint[], $23::bigint[])
ON CONFLICT (id, day) DO NOTHING
RETURNING id, day
