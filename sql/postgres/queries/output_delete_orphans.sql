-- Output of the day $1, of runs that are not there, and whose ids (below $2) say that they are beyond retention.
DELETE FROM run_output
WHERE day = $1 AND (run_id, "offset") IN (
    SELECT run_id, "offset"
    FROM run_output
    WHERE day = $1 AND run_id < $2 AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.id = run_output.run_id)
    LIMIT $3)
