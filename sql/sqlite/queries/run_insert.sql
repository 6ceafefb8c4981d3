INSERT INTO runs (
    id, job_id, job_name, job_revision, "trigger", retry_of, scheduled_at, attempt, state, reason, worker_id, started_at, finished_at,
    exit_code, signal, error, output_bytes, output_truncated, skipped_from, skipped_count, ledger_index)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)
ON CONFLICT (id) DO NOTHING;
