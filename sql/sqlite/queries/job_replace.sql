UPDATE jobs
SET name = ?2, is_enabled = ?3, revision = ?4, change_seq = ?5, updated_at = ?6, effective_from = ?7, spec = ?8
WHERE id = ?1;
