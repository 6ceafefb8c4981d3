DELETE FROM jobs
WHERE id IN (SELECT id FROM jobs WHERE deleted_at < $1 AND change_seq <= $2 ORDER BY deleted_at LIMIT $3)
