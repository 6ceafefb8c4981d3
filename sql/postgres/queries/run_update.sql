-- Rows that are there give way only to a greater ledger index.
UPDATE runs
SET job_id = new.job_id, job_name = new.job_name, job_revision = new.job_revision, trigger = new.trigger, retry_of = new.retry_of,
    scheduled_at = new.scheduled_at, attempt = new.attempt, state = new.state, reason = new.reason, worker_id = new.worker_id,
    started_at = new.started_at, finished_at = new.finished_at, exit_code = new.exit_code, signal = new.signal, error = new.error,
    output_bytes = new.output_bytes, output_truncated = new.output_truncated, skipped_from = new.skipped_from,
    skipped_count = new.skipped_count, ledger_index = new.ledger_index
FROM unnest(
    $1::integer[], $2::uuid[], $3::integer[], $4::bigint[], $5::text[], $6::bigint[], $7::text[], $8::uuid[], $9::bigint[],
    $10::bigint[], $11::text[], $12::text[], $13::text[], $14::bigint[], $15::bigint[], $16::integer[], $17::integer[], $18::text[],
    $19::bigint[], $20::boolean[], $21::bigint[], $22::bigint[], $23::bigint[]) AS new (
    day, id, output_day, job_id, job_name, job_revision, trigger, retry_of, scheduled_at, attempt, state, reason, worker_id, started_at,
    finished_at, exit_code, signal, error, output_bytes, output_truncated, skipped_from, skipped_count, ledger_index)
WHERE runs.id = new.id AND runs.day = new.day AND runs.ledger_index < new.ledger_index
