-- Instants are milliseconds since the Unix epoch; identifiers of runs and clusters are the 16 bytes of their UUIDs.

-- One row: what the file as a whole knows about itself.
CREATE TABLE meta (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    cluster_id BLOB CHECK (length(cluster_id) = 16),
    -- The newest place in the feed of changes to jobs; only ever counts up (PROTOCOL A1).
    change_seq INTEGER NOT NULL,
    -- Rows of `runs`, kept in the transactions that change them: retention by number must not count millions of rows.
    run_count INTEGER NOT NULL,
    -- Turned by the check that the file can still be written.
    checks INTEGER NOT NULL
) STRICT;

INSERT INTO meta (only, cluster_id, change_seq, run_count, checks) VALUES (1, NULL, 0, 0, 0);

-- Jobs, and tombstones of deleted ones for the feed. AUTOINCREMENT: an id is never given twice (PROTOCOL F2).
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    is_enabled INTEGER NOT NULL CHECK (is_enabled IN (0, 1)),
    revision INTEGER NOT NULL CHECK (revision >= 1),
    change_seq INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    effective_from INTEGER NOT NULL,
    deleted_at INTEGER,
    -- What the user wrote, as JSON; a tombstone has forgotten it.
    spec TEXT CHECK (json_valid(spec)),
    CHECK ((spec IS NULL) = (deleted_at IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX jobs_name ON jobs (name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX jobs_change_seq ON jobs (change_seq);
CREATE INDEX jobs_deleted_at ON jobs (deleted_at) WHERE deleted_at IS NOT NULL;

-- History. No foreign key to jobs: it outlives them (PROTOCOL F4).
CREATE TABLE runs (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    job_id INTEGER NOT NULL,
    job_name TEXT NOT NULL,
    job_revision INTEGER NOT NULL,
    "trigger" TEXT NOT NULL,
    retry_of BLOB CHECK (length(retry_of) = 16),
    scheduled_at INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    worker_id TEXT,
    started_at INTEGER,
    finished_at INTEGER,
    exit_code INTEGER,
    signal INTEGER,
    error TEXT,
    output_bytes INTEGER NOT NULL,
    output_truncated INTEGER NOT NULL CHECK (output_truncated IN (0, 1)),
    skipped_from INTEGER,
    skipped_count INTEGER,
    -- The ledger index that the row comes from: it gives way only to a greater one (PROTOCOL F1).
    ledger_index INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Every list of runs is a merge of its states' lists, so that these two serve all filters, and a rare state is found without reading
-- past the common ones.
CREATE INDEX runs_job_state ON runs (job_id, state, scheduled_at DESC, id DESC);
CREATE INDEX runs_state ON runs (state, scheduled_at DESC, id DESC);

-- Pages of captured output, named by the offset of their first byte; `parts` is a postcard of Vec<OutputPart>. No foreign key to runs:
-- a run's output may be written before the run is.
CREATE TABLE run_output (
    run_id BLOB NOT NULL CHECK (length(run_id) = 16),
    "offset" INTEGER NOT NULL,
    parts BLOB NOT NULL CHECK (length(parts) <= 8388608),
    PRIMARY KEY (run_id, "offset")
) STRICT;

-- What could not be written, with the reason (PROTOCOL F4).
CREATE TABLE set_aside (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id BLOB NOT NULL,
    -- `run`, or `output at <offset>`.
    what TEXT NOT NULL,
    error TEXT NOT NULL,
    -- The row as JSON, where it is a run.
    run TEXT,
    UNIQUE (run_id, what)
) STRICT;
