-- The page that the offset ?2 falls into, if there is one, and all behind it.
SELECT "offset", parts
FROM run_output
WHERE run_id = ?1
    AND "offset" >= ifnull((SELECT max("offset") FROM run_output WHERE run_id = ?1 AND "offset" <= ?2), ?2)
ORDER BY "offset";
