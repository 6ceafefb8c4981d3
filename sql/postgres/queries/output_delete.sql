DELETE FROM run_output
USING unnest($1::uuid[], $2::integer[]) AS gone (id, day)
WHERE run_output.run_id = gone.id AND run_output.day = gone.day
