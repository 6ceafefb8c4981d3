INSERT INTO run_output (day, run_id, "offset", parts)
SELECT * FROM unnest($1::integer[], $2::uuid[], $3::bigint[], $4::bytea[])
ON CONFLICT (run_id, "offset", day) DO UPDATE SET parts = excluded.parts
