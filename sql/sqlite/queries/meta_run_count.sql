SELECT run_count FROM meta;
