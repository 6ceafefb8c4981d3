DELETE FROM set_aside WHERE id <= (SELECT max(id) FROM set_aside) - $1
