UPDATE meta SET run_count = run_count + ?1;
