SELECT id, revision, change_seq, created_at, updated_at, effective_from, spec::text
FROM jobs
WHERE id = $1 AND deleted_at IS NULL
