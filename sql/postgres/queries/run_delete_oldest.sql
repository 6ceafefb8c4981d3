-- Of the day $1 the oldest runs: the first $2 whatever their age, and those scheduled before $3; $4 at most. $5 are all states: each has
-- its list in an index, and the merge of their beginnings holds the oldest of all.
DELETE FROM runs
WHERE day = $1 AND id IN (
    SELECT oldest.id
    FROM (
        SELECT first.id, first.scheduled_at, row_number() OVER (ORDER BY first.scheduled_at, first.id) AS place
        FROM unnest($5::text[]) AS every (state)
        CROSS JOIN LATERAL (
            SELECT id, scheduled_at
            FROM runs
            WHERE day = $1 AND state = every.state
            ORDER BY day, scheduled_at, id
            LIMIT $4) AS first) AS oldest
    WHERE oldest.place <= $4 AND (oldest.place <= $2 OR oldest.scheduled_at < $3))
RETURNING id, output_day
