-- The newest id that was ever given; no row before the first job.
SELECT seq FROM sqlite_sequence WHERE name = 'jobs';
