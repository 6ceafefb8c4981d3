SELECT change_seq, job_id FROM meta
