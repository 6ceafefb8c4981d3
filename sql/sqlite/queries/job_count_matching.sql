-- ?1 to ?3 as in job_list.sql. All rows are looked at, so in the order in which they lie.
SELECT count(*)
FROM jobs NOT INDEXED
WHERE deleted_at IS NULL
    AND (?1 IS NULL OR instr(lower(name), ?1) > 0)
    AND (?2 IS NULL OR is_enabled = ?2)
    AND (?3 IS NULL OR NOT EXISTS (
        SELECT 1 FROM json_each(?3) AS wanted
        WHERE NOT EXISTS (
            SELECT 1 FROM json_each(jobs.spec, '$.labels') AS label
            WHERE label.key = wanted.value ->> 0 AND label.value = ifnull(wanted.value ->> 1, label.value))));
