SELECT id FROM jobs WHERE name = $1 AND deleted_at IS NULL
