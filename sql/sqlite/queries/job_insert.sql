INSERT INTO jobs (name, is_enabled, revision, change_seq, created_at, updated_at, effective_from, spec)
VALUES (?1, ?2, 1, ?3, ?4, ?4, ?4, ?5)
RETURNING id;
