-- The page that the offset $3 falls into, if there is one, and those behind it; from the offset $4 on, and $5 at most.
SELECT "offset", parts
FROM run_output
WHERE day = $1 AND run_id = $2
    AND "offset" >= coalesce((SELECT max("offset") FROM run_output WHERE day = $1 AND run_id = $2 AND "offset" <= $3), $3)
    AND "offset" >= $4
ORDER BY "offset"
LIMIT $5
