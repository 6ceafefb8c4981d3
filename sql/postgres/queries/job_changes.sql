SELECT id, revision, change_seq, created_at, updated_at, effective_from, spec::text
FROM jobs
WHERE change_seq > $1
ORDER BY change_seq
LIMIT $2
