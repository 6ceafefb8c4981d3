UPDATE run_days SET runs = run_days.runs + added.runs
FROM unnest($1::integer[], $2::bigint[]) AS added (day, runs)
WHERE run_days.day = added.day
