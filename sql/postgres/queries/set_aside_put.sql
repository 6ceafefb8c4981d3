INSERT INTO set_aside (run_id, what, error, run)
VALUES ($1, $2, $3, $4::text::json)
ON CONFLICT (run_id, what) DO UPDATE SET error = excluded.error, run = excluded.run
