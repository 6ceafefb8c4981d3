UPDATE meta SET cluster_id = ?1 WHERE cluster_id IS NULL;
