-- Oldest first, and how many runs all days have together.
SELECT day, runs, (sum(runs) OVER ())::bigint FROM run_days ORDER BY day LIMIT 1
