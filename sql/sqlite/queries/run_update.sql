UPDATE runs
SET job_id = ?2, job_name = ?3, job_revision = ?4, "trigger" = ?5, retry_of = ?6, scheduled_at = ?7, attempt = ?8, state = ?9,
    reason = ?10, worker_id = ?11, started_at = ?12, finished_at = ?13, exit_code = ?14, signal = ?15, error = ?16, output_bytes = ?17,
    output_truncated = ?18, skipped_from = ?19, skipped_count = ?20, ledger_index = ?21
WHERE id = ?1 AND ledger_index < ?21;
