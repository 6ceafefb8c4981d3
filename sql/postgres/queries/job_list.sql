-- $1: text in the name, in lower case · $2: is_enabled · $3: labels, as the column has them; each null for any. One statement, so that
-- the page and the number of all that match come from the same instant; a row without a job where the page is empty.
SELECT
    matching.total, page.id, page.revision, page.change_seq, page.created_at, page.updated_at, page.effective_from, page.spec
FROM (
    SELECT count(*) AS total
    FROM jobs
    WHERE deleted_at IS NULL
        AND ($1::text IS NULL OR strpos(lower(name), $1) > 0)
        AND ($2::boolean IS NULL OR is_enabled = $2)
        AND ($3::text[] IS NULL OR labels @> $3)) AS matching
LEFT JOIN LATERAL (
    SELECT id, revision, change_seq, created_at, updated_at, effective_from, spec::text AS spec
    FROM jobs
    WHERE deleted_at IS NULL
        AND ($1::text IS NULL OR strpos(lower(name), $1) > 0)
        AND ($2::boolean IS NULL OR is_enabled = $2)
        AND ($3::text[] IS NULL OR labels @> $3)
        AND id > $4
    ORDER BY id
    LIMIT $5) AS page ON true
ORDER BY page.id
