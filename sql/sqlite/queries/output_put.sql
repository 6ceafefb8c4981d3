INSERT INTO run_output (run_id, "offset", parts)
VALUES (?1, ?2, ?3)
ON CONFLICT (run_id, "offset") DO UPDATE SET parts = excluded.parts;
