-- Instants are milliseconds since the Unix epoch, days are days since then. Texts that users or commands chose are stored with NUL
-- escaped (src/store/postgres/text.rs), because no text of PostgreSQL can hold one.

-- One row: the database's cluster, and the counters of the jobs. Whoever writes a job locks it first, so that writes are serial and the
-- order of the numbers is the order of the commits (PROTOCOL A1). Neither number is ever given twice (PROTOCOL F2).
CREATE TABLE meta (
    is_one BOOLEAN PRIMARY KEY DEFAULT true CHECK (is_one),
    change_seq BIGINT NOT NULL,
    job_id BIGINT NOT NULL
);
INSERT INTO meta (change_seq, job_id) VALUES (0, 0);

-- One row or none: the cluster that the database belongs to. Apart from `meta`, so that founding waits for no write of a job.
CREATE TABLE cluster (
    is_one BOOLEAN PRIMARY KEY DEFAULT true CHECK (is_one),
    id UUID NOT NULL
);

-- Turned by the check that the database can still be written.
CREATE TABLE checks (
    is_one BOOLEAN PRIMARY KEY DEFAULT true CHECK (is_one),
    number BIGINT NOT NULL
);
INSERT INTO checks (number) VALUES (0);

-- Jobs, and tombstones of deleted ones for the feed.
CREATE TABLE jobs (
    id BIGINT PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    is_enabled BOOLEAN NOT NULL,
    -- Each label twice, as JSON: `["name"]` and `["name","value"]`.
    labels TEXT[] COLLATE "C" NOT NULL,
    revision BIGINT NOT NULL CHECK (revision >= 1),
    change_seq BIGINT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    effective_from BIGINT NOT NULL,
    deleted_at BIGINT,
    -- What the user wrote; a tombstone has forgotten it. JSON, not JSONB, which refuses an escaped NUL.
    spec JSON,
    CHECK ((spec IS NULL) = (deleted_at IS NOT NULL))
);
CREATE UNIQUE INDEX jobs_name ON jobs (name) WHERE deleted_at IS NULL;
CREATE INDEX jobs_labels ON jobs USING gin (labels) WHERE deleted_at IS NULL;
CREATE INDEX jobs_deleted_at ON jobs (deleted_at) WHERE deleted_at IS NOT NULL;

-- History, in one partition a day, so that retention drops whole ones. No foreign key to jobs: it outlives them (PROTOCOL F4).
CREATE TABLE runs (
    -- The day of `scheduled_at`. Lists are ordered by (day, scheduled_at, id), which is the same as by (scheduled_at, id), and lets
    -- PostgreSQL read one partition after the other instead of all at once.
    day INTEGER NOT NULL,
    id UUID NOT NULL,
    -- The partition of `run_output` in which the run's output lies.
    output_day INTEGER NOT NULL,
    job_id BIGINT NOT NULL,
    job_name TEXT NOT NULL,
    job_revision BIGINT NOT NULL,
    trigger TEXT NOT NULL,
    retry_of UUID,
    scheduled_at BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    worker_id TEXT,
    started_at BIGINT,
    finished_at BIGINT,
    exit_code INTEGER,
    signal INTEGER,
    error TEXT,
    output_bytes BIGINT NOT NULL,
    output_truncated BOOLEAN NOT NULL,
    skipped_from BIGINT,
    skipped_count BIGINT,
    -- The ledger index that the row comes from: it gives way only to a greater one (PROTOCOL F1).
    ledger_index BIGINT NOT NULL,
    PRIMARY KEY (id, day)
) PARTITION BY RANGE (day);

-- Every list of runs is a merge of its states' lists, so that these two serve all filters, and a rare state is found without reading
-- past the common ones.
CREATE INDEX runs_job_state ON runs (job_id, state, day DESC, scheduled_at DESC, id DESC);
CREATE INDEX runs_state ON runs (state, day DESC, scheduled_at DESC, id DESC);
-- Almost empty: runs whose output does not go with their own day.
CREATE INDEX runs_output_elsewhere ON runs (output_day) WHERE output_day <> day;

-- The partitions of `runs`, and how many rows each has, kept in the transactions that change them: retention by number must not count
-- millions of rows. A writer locks the rows of its days first; so a partition neither goes under it nor loses count.
CREATE TABLE run_days (
    day INTEGER PRIMARY KEY,
    runs BIGINT NOT NULL CHECK (runs >= 0)
) WITH (fillfactor = 50);

-- Pages of captured output, named by the offset of their first byte; `parts` is a postcard of Vec<OutputPart>. A run's output may be
-- written before the run is, so its day comes from the run's id; ids that tell no time share the day -2147483648.
CREATE TABLE run_output (
    day INTEGER NOT NULL,
    run_id UUID NOT NULL,
    "offset" BIGINT NOT NULL,
    parts BYTEA NOT NULL,
    PRIMARY KEY (run_id, "offset", day)
) PARTITION BY RANGE (day);
CREATE TABLE run_output_undated PARTITION OF run_output FOR VALUES FROM (MINVALUE) TO (-2147483647);

-- The partitions of `run_output` that have a day.
CREATE TABLE output_days (
    day INTEGER PRIMARY KEY
);

-- What could not be written, with the reason (PROTOCOL F4).
CREATE TABLE set_aside (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id UUID NOT NULL,
    -- `run`, or `output at <offset>`.
    what TEXT NOT NULL,
    error TEXT NOT NULL,
    -- The row as JSON, where it is a run.
    run JSON,
    UNIQUE (run_id, what)
);
