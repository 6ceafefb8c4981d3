-- Days before $1 whose output belongs to no run that is kept.
SELECT day
FROM output_days
WHERE day < $1 AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.output_day = output_days.day AND runs.output_day <> runs.day)
    AND NOT EXISTS (SELECT 1 FROM run_days WHERE run_days.day = output_days.day)
ORDER BY day
