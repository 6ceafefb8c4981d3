INSERT INTO jobs (id, name, is_enabled, labels, revision, change_seq, created_at, updated_at, effective_from, spec)
VALUES ($1, $2, $3, $4, 1, $5, $6, $6, $6, $7::text::json)
