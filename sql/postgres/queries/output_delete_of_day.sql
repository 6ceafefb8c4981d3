-- Output of the runs of the day $1 that lies elsewhere.
DELETE FROM run_output
USING runs
WHERE runs.day = $1 AND runs.output_day <> runs.day AND run_output.day = runs.output_day AND run_output.run_id = runs.id
