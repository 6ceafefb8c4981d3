SELECT day FROM output_days WHERE day = ANY($1) ORDER BY day FOR SHARE
