UPDATE meta SET change_seq = change_seq + 1 RETURNING change_seq;
