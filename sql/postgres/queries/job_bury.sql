-- Makes a job a tombstone.
UPDATE jobs
SET revision = $2, change_seq = $3, updated_at = $4, effective_from = $5, deleted_at = $4, spec = NULL, labels = '{}'
WHERE id = $1
