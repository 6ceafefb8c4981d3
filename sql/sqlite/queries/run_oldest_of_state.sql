-- One part of the list of all runs, oldest first; see run_list_of_job_and_state.sql.
SELECT id, scheduled_at FROM runs INDEXED BY runs_state WHERE state = @state
