UPDATE meta SET checks = checks + 1;
