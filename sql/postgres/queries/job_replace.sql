UPDATE jobs
SET name = $2, is_enabled = $3, labels = $4, revision = $5, change_seq = $6, updated_at = $7, effective_from = $8, spec = $9::text::json
WHERE id = $1
