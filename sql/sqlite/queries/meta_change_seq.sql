SELECT change_seq FROM meta;
