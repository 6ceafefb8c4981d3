-- Of all jobs; the index on names holds exactly these.
SELECT count(*) FROM jobs INDEXED BY jobs_name WHERE deleted_at IS NULL;
