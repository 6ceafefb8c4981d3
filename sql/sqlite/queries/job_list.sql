-- ?1: text in the name, in lower case · ?2: is_enabled · ?3: labels, as JSON [[name, value or null], …]; each null for any.
SELECT id, revision, change_seq, created_at, updated_at, effective_from, spec
FROM jobs
WHERE deleted_at IS NULL
    AND (?1 IS NULL OR instr(lower(name), ?1) > 0)
    AND (?2 IS NULL OR is_enabled = ?2)
    AND (?3 IS NULL OR NOT EXISTS (
        SELECT 1 FROM json_each(?3) AS wanted
        WHERE NOT EXISTS (
            SELECT 1 FROM json_each(jobs.spec, '$.labels') AS label
            WHERE label.key = wanted.value ->> 0 AND label.value = ifnull(wanted.value ->> 1, label.value))))
    AND id > ?4
ORDER BY id
LIMIT ?5;
