-- Output of runs that are not there, and whose ids (UUID version 7, below ?1) say that they are beyond retention.
DELETE FROM run_output
WHERE rowid IN (
    SELECT rowid FROM run_output
    WHERE run_id < ?1 AND hex(substr(run_id, 7, 1)) LIKE '7%' AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.id = run_output.run_id)
    LIMIT ?2);
