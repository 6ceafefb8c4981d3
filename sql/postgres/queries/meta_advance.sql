-- Gives a change of a job its numbers, and wakes who listens once it is committed.
WITH advanced AS (UPDATE meta SET change_seq = $1, job_id = $2 RETURNING change_seq)
SELECT pg_notify('chrono_flow_jobs', change_seq::text) FROM advanced
